"""Validation of resources that users write: a replica's ``ray_actor_options``, and the capacity of an instance.

Also detects the GPUs and the memory of this machine.
"""

from __future__ import annotations

import glob
import math
import os
import sys
import types
from collections.abc import Mapping
from typing import Any

from pointsman.arguments import nearest
from pointsman.model import Resources
from pointsman.usercode.paths import absolute, refuse_world_writable

_AMOUNTS = ("num_cpus", "num_gpus", "memory", "object_store_memory")
REFUSED = ("lifetime", "name", "max_restarts", "placement_group")
#: Options of Ray's ``runtime_env``; they may be given by themselves or in a dict of that name.
_SETTINGS = ("env_vars", "working_dir", "py_modules")
#: Names of options in Ray Serve 1.x, with their present names.
_OLD_NAMES = {"override_environment_variables": "env_vars"}
KNOWN = (*_AMOUNTS, "resources", *_SETTINGS, "runtime_env", *_OLD_NAMES)
#: Options that say on which nodes of a cluster a replica runs; the Ray engine checks them.
PLACES = ("scheduling_strategy", "label_selector", "fallback_strategy", "accelerator_type")
#: Largest size of ``NAME=value`` in bytes: Linux does not start a process with a longer one.
MAX_VARIABLE = 128 * 1024 - 1
#: Options of Ray's ``runtime_env`` for which Pointsman has ``env=``.
_OF_ENV = ("conda", "pip", "uv", "py_executable")


def parse_actor_options(options: Mapping[str, Any] | None) -> Resources:
    """Resources of one replica from ``ray_actor_options``.

    ``object_store_memory`` is checked and has no meaning: no call goes through an object store.

    Raises:
        TypeError: not a dict, or a value of the wrong type.
        ValueError: a value out of range, or an option that a replica cannot have.
    """
    if options is None:
        return Resources()
    if not isinstance(options, dict):
        raise TypeError(f"ray_actor_options must be a dict, not {options!r}")
    for key in options:
        if key in REFUSED:
            raise ValueError(f"ray_actor_options cannot set {key!r}: Pointsman manages it")
        if key not in KNOWN:
            raise ValueError(f"ray_actor_options has no option {key!r} on the local engine{nearest(key, KNOWN)}")
        if options[key] is None:
            raise TypeError(f"{key} of ray_actor_options is None; leave it out for its default")
    settings = _settings(options)
    amounts = {name: _amount(name, options[name]) for name in _AMOUNTS if name in options}
    if amounts.get("num_gpus", 0) > 1 and amounts["num_gpus"] % 1:
        raise ValueError(f"num_gpus {options['num_gpus']!r} above 1 must be a whole number")
    return Resources(
        num_cpus=amounts.get("num_cpus", 1.0),
        num_gpus=amounts.get("num_gpus", 0.0),
        memory=amounts.get("memory", 0.0),
        custom=parse_custom_resources(options.get("resources"), "resources"),
        env_vars=_env_vars(settings.get("env_vars")),
        working_dir=_working_dir(settings.get("working_dir")),
        py_modules=_py_modules(settings.get("py_modules")),
    )


def parse_custom_resources(resources: Any, what: str) -> dict[str, float]:
    """Custom resources: name -> amount.

    Raises:
        TypeError: not a dict of numbers by name.
        ValueError: an amount out of range.
    """
    if resources is None:
        return {}
    if not isinstance(resources, dict):
        raise TypeError(f"{what} must be a dict of name to number, not {resources!r}")
    for name in resources:
        if not isinstance(name, str):
            raise TypeError(f"{what} has the key {name!r}, which is not a str")
    return {name: _amount(f"{what}[{name!r}]", amount) for name, amount in resources.items()}


def check_capacity(name: str, amount: Any) -> float | None:
    """Check ``num_cpus``, ``num_gpus`` or ``memory`` of ``start``; None stays None. Raises TypeError, ValueError."""
    return None if amount is None else _amount(name, amount)


def detect_gpus() -> tuple[str, ...]:
    """The GPUs of this machine by their names for ``CUDA_VISIBLE_DEVICES``, in order."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip() and name.strip() != "-1")
    return tuple(str(index) for index in range(len(glob.glob("/proc/driver/nvidia/gpus/*"))))


def detect_memory() -> float:
    """Bytes of this machine's memory; 0 when the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        return 0.0


def _amount(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be an int or float, not {value!r}")
    if isinstance(value, int) and value > sys.float_info.max:
        raise ValueError(f"{name} is larger than any float; give at most {sys.float_info.max:g}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be finite and at least 0, not {value!r}")
    return float(value)


def _env_vars(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise TypeError(f"env_vars must be a dict of str to str, not {value!r}")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise TypeError(f"env_vars must map str to str, and it has {name!r}: {text!r}")
        size = len(f"{name}={text}".encode(errors="surrogateescape"))
        if size > MAX_VARIABLE:
            raise ValueError(f"variable {name[:40]!r} of env_vars takes {size} bytes, over the limit of {MAX_VARIABLE}")
    check_hash_seed(value)
    return dict(value)


def check_hash_seed(variables: Mapping[str, str]) -> None:
    """Check that processes with these environment variables hash strings with a secret seed.

    Raises:
        ValueError: the seed is 0, so that clients could choose keys that collide in a dict, as in a JSON body; or none
            with which Python starts.
    """
    seed = variables.get("PYTHONHASHSEED") or "random"
    if seed == "random":
        return
    try:
        number = int(seed)
    except ValueError:
        number = -1
    if not 0 <= number < 2**32:
        raise ValueError("PYTHONHASHSEED must be 'random' or a number from 1 to 4294967295: Python refuses others")
    if number == 0:
        raise ValueError(
            f"PYTHONHASHSEED is {seed!r}, by which clients could choose keys that make dicts slow; unset it, or give"
            " another number"
        )


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a replica's process, from the options themselves and from ``runtime_env``."""
    settings = {name: options[name] for name in _SETTINGS if name in options}
    for old, name in _OLD_NAMES.items():
        if old in options:
            if name in settings:
                raise ValueError(f"{name} and {old} are given, and are the same; give one of them")
            settings[name] = options[old]
    inner = options.get("runtime_env")
    if inner is None:
        return settings
    if not isinstance(inner, dict):
        raise TypeError(f"runtime_env must be a dict, not {inner!r}")
    for name in inner:
        if name in _OF_ENV:
            raise ValueError(f"runtime_env cannot set {name!r}; give the backend's environment as env=...")
        if name not in _SETTINGS:
            raise ValueError(f"runtime_env has no {name!r} here{nearest(str(name), _SETTINGS)}")
        if name in settings:
            raise ValueError(f"{name} is given twice, as an option and in runtime_env; give it once")
        if inner[name] is None:
            raise TypeError(f"{name} of runtime_env is None; leave it out for its default")
    return {**settings, **inner}


def _working_dir(value: Any) -> str:
    if value is None:
        return ""
    folder = _local_path(value, "working_dir")
    if not os.path.isdir(folder):
        raise ValueError(f"working_dir {value!r} is not a folder")
    refuse_world_writable(folder, f"working_dir {value!r}")
    return folder


def _py_modules(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"py_modules must be a list of paths or modules, not {value!r}")
    found: dict[str, str] = {}
    for entry in value:
        if isinstance(entry, types.ModuleType):
            places = list(getattr(entry, "__path__", [])) or [entry.__file__]
            entry = places[0]
        path = _local_path(entry, "an entry of py_modules")
        name = os.path.basename(path)
        if not (os.path.isdir(path) or (os.path.isfile(path) and name.endswith(".py"))):
            raise ValueError(f"{entry!r} of py_modules is neither a package's folder nor a module's .py file")
        if found.setdefault(name, path) != path:
            raise ValueError(f"py_modules has two modules of one name: {found[name]} and {path}")
        refuse_world_writable(path, f"{entry!r} of py_modules")
    return tuple(found.values())


def _local_path(value: Any, what: str) -> str:
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise TypeError(f"{what} must be a path, not {value!r}")
    if "://" in os.fspath(value):
        raise ValueError(f"{what} is {value!r}, and Pointsman fetches nothing; give a path")
    return os.path.normpath(absolute(os.path.expanduser(value), what))
