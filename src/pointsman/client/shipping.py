"""Gets a backend's code ready to travel: packed, looked at, and tried in the environment that it shall run in.

Nothing is registered yet while this runs, so whatever is wrong costs nobody anything.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pointsman.actor_options import check_hash_seed
from pointsman.backends import ImportedBackend
from pointsman.client.operations import origin_here
from pointsman.environments.cache import link_folder
from pointsman.environments.kinds import Kind
from pointsman.environments.rehearsal import rehearse
from pointsman.environments.resolve import resolve
from pointsman.model import CALLER, Environment, Origin, Resources, TargetTraits
from pointsman.usercode.packing import carries_code, code_digest, look_at, pack_code
from pointsman.usercode.paths import given_sys_path

Code = Callable[..., Any] | type | ImportedBackend


class Cargo(NamedTuple):
    """Code that is ready to travel.

    Attributes:
        blob: the pickled function or class with its init args; ``digest`` is its name.
        origin: where its replicas run.
        traits: what is known of it.
    """

    blob: bytes
    digest: str
    origin: Origin
    traits: TargetTraits


def prepare(
    code: Code,
    init_args: tuple[Any, ...],
    env: Kind | Environment | None,
    resources: Resources,
    user_config: bytes | None,
) -> Cargo:
    """Pack code for an environment; None is the caller's.

    Code of the caller's own environment is known to load. In another one, and where the code is only named, it is
    loaded once by that environment's interpreter.

    Raises:
        TypeError, ValueError: the code cannot be a backend, or the environment cannot run it.
        ServeException: a conda environment is asked for, and there is no conda.
    """
    traits = None if isinstance(code, ImportedBackend) else look_at(code, init_args)
    environment = resolve(env)
    check_hash_seed(environment.variables)
    blob = pack_code(code, init_args, [*own_folders(resources), *_installed_there(environment)])
    name = getattr(code, "__qualname__", repr(code))
    what = "an init argument" if isinstance(code, ImportedBackend) else name
    for data, part in ((blob, what), (user_config or b"", "user_config")):
        check_crossing(data, part, environment)
    origin = origin_for(environment, resources)
    if traits is None or environment.kind != CALLER:
        variables = {**environment.variables, **resources.env_vars}
        traits = rehearse(name, blob, origin, msgspec.structs.replace(environment, variables=variables))
    return Cargo(blob, code_digest(blob), origin, traits)


def check_crossing(data: bytes, what: str, environment: Environment | None) -> None:
    """Refuse code by value for another minor version of Python: bytecode means something else there.

    Args:
        data: a pickle.
        what: its name in the error's text.
        environment: None is one of the same Python.

    Raises:
        ValueError: it holds such code.
    """
    if environment is None:
        return
    here, there = (f"{sys.version_info[0]}.{sys.version_info[1]}", ".".join(environment.version.split(".")[:2]))
    if here != there and carries_code(data):
        raise ValueError(
            f"{what} would be sent as bytecode of Python {here}, which Python {there} of {environment} cannot run; put"
            " it into a module that is found there, and name the backend with ImportedBackend('module:Name')"
        )


def origin_for(environment: Environment, resources: Resources) -> Origin:
    """Where code that this process ships is to run."""
    here = origin_here()
    sys_path = here.sys_path if environment.kind == CALLER else given_sys_path()
    return Origin(resources.working_dir or here.cwd, (*own_folders(resources), *sys_path), environment)


def _installed_there(environment: Environment) -> list[str]:
    """Where an environment of the user's has its packages: what is there goes by name, whatever is loaded here."""
    if environment.kind == CALLER:
        return []
    return [str(folder) for folder in Path(environment.python).parent.parent.glob("lib*/python3*/site-packages")]


def own_folders(resources: Resources) -> list[str]:
    """What comes first in the import path of a backend's replicas: its ``py_modules`` and its ``working_dir``."""
    modules = [link_folder(*resources.py_modules)] if resources.py_modules else []
    return [*modules, *([resources.working_dir] if resources.working_dir else [])]
