"""The ``env`` of a file, and paths in a file, which are relative to its folder. Pure, but for the home folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pointsman.arguments import nearest
from pointsman.environments.kinds import CondaEnv, Kind, Requirements, VirtualEnv, env_form, parse_env

_KINDS = ("conda", "virtualenv", "requirements")


def under(folder: Path, path: str) -> str:
    """A path of a file as an absolute one. What is no path of this machine, as a URL, stays as it is."""
    if "://" in path or not path:
        return path
    return os.path.normpath(folder / os.path.expanduser(path))


def env_kind(value: Any, folder: Path) -> Kind | None:
    """The environment that a file names.

    Raises:
        TypeError, ValueError: it is in none of the forms.
    """
    if value is None or isinstance(value, str):
        return parse_env(value)
    if not isinstance(value, Mapping):
        raise TypeError(f"env must be a text or a mapping with one of {', '.join(_KINDS)}, not {value!r}")
    for name in value:
        if name not in (*_KINDS, "python"):
            raise ValueError(f"env has no field {name!r}{nearest(str(name), (*_KINDS, 'python'))}")
    kinds = [kind for kind in _KINDS if kind in value]
    if len(kinds) != 1:
        raise ValueError(f"env must have exactly one of {', '.join(_KINDS)}, and has {' and '.join(kinds) or 'none'}")
    if "python" in value and kinds != ["requirements"]:
        raise ValueError("python of env is for requirements only: another environment has an interpreter of its own")
    if kinds == ["conda"]:
        return CondaEnv(value["conda"])
    if kinds == ["virtualenv"]:
        path = value["virtualenv"]
        return VirtualEnv(under(folder, path) if isinstance(path, str) else path)
    python = value.get("python")
    return Requirements(value["requirements"], python=under(folder, python) if isinstance(python, str) else python)


def stored_env(data: bytes) -> dict[str, Any] | None:
    """The environment of code that was sent, in the same form. One that this version does not know stays as it is."""
    value = msgspec.json.decode(data)
    try:
        return env_form(env_kind(value, Path("/")))
    except (TypeError, ValueError):
        return value if isinstance(value, dict) else {"conda": value}


#: The field of ``console`` that is no ConsoleOptions: an argument of ``start``.
PORT = "port"


def http_options(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``http_options`` with absolute paths."""
    tls = options.get("tls")
    if not isinstance(tls, dict):
        return dict(options)
    files = {name: under(folder, path) for name, path in tls.items() if isinstance(path, str) and name != "password"}
    return {**options, "tls": {**tls, **files}}


def console_options(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The section of the console, with absolute paths."""
    made = {**options}
    for name, value in options.items():
        if name in ("token_file", "cert", "key") and isinstance(value, str):
            made[name] = under(folder, value)
        elif name == PORT and isinstance(value, str) and value.isdecimal():  # as a variable is
            made[name] = int(value)
    return made
