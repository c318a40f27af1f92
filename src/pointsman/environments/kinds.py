"""The types that users give as ``env=``. Only their form is checked here; ``resolve`` checks that they exist."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pointsman.usercode.paths import absolute


@dataclass(frozen=True)
class VirtualEnv:
    """An environment in a folder: one made by venv, virtualenv or uv, or any other with an interpreter in its ``bin``.

    Args:
        path: the folder; made absolute, ``~`` is the home folder.

    Raises:
        TypeError, ValueError: it is not a path.
    """

    path: str

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
            raise TypeError(f"VirtualEnv takes the path of a folder, not {path!r}")
        if not os.fspath(path) or "\0" in os.fspath(path):
            raise ValueError(f"VirtualEnv takes the path of a folder, and {path!r} is none")
        object.__setattr__(self, "path", absolute(Path(path).expanduser(), "the path of a VirtualEnv"))


@dataclass(frozen=True)
class CondaEnv:
    """A conda environment by its name, as ``conda env list`` shows it; ``"base"`` is the installation itself.

    Args:
        name: for an environment that has only a path, use :class:`VirtualEnv`.

    Raises:
        TypeError, ValueError: it is not a name.
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"CondaEnv takes the name of a conda environment, a str, not {self.name!r}")
        if "/" in self.name or os.sep in self.name:
            raise ValueError(f"{self.name!r} is a path, not the name of a conda environment; use VirtualEnv for a path")
        if not self.name.strip() or self.name in (".", "..") or not self.name.isprintable():
            raise ValueError(f"{self.name!r} cannot be the name of a conda environment")


_REQUIREMENT = re.compile(r"[A-Za-z0-9][^\r\n\0]*")


@dataclass(frozen=True)
class Requirements:
    """A virtual environment that is made from requirements when it is first needed, and kept for later.

    Args:
        packages: requirements as in ``requirements.txt``, such as ``["scikit-learn==1.5.2"]``; options are not taken.
        python: path of the interpreter to base it on; the caller's by default.
        installer: ``"uv"`` or ``"pip"``; by default uv where it is installed, else venv and pip.

    Raises:
        TypeError, ValueError: an argument is not of this kind.
    """

    packages: tuple[str, ...]
    python: str | None
    installer: str | None

    def __init__(
        self,
        packages: Sequence[str],
        *,
        python: str | os.PathLike[str] | None = None,
        installer: Literal["uv", "pip"] | None = None,
    ) -> None:
        if isinstance(packages, str) or not isinstance(packages, Sequence):
            raise TypeError(f"Requirements takes a list of str such as ['numpy==2.1.0'], not {packages!r}")
        for package in packages:
            if not isinstance(package, str):
                raise TypeError(f"Requirements takes a list of str, and it has {package!r}")
            if not _REQUIREMENT.fullmatch(package.strip()):
                raise ValueError(f"{package!r} is not a requirement such as 'numpy==2.1.0'")
        if python is not None and not isinstance(python, (str, os.PathLike)):
            raise TypeError(f"python of Requirements must be the path of an interpreter, not {python!r}")
        if installer not in (None, "uv", "pip"):
            raise ValueError(f"installer of Requirements is {installer!r}, but must be 'uv' or 'pip'")
        wanted = sorted({" ".join(package.split()) for package in packages})
        object.__setattr__(self, "packages", tuple(wanted))
        if python is not None:
            python = absolute(Path(python).expanduser(), "python of Requirements")
        object.__setattr__(self, "python", python)
        object.__setattr__(self, "installer", installer)


Kind = VirtualEnv | CondaEnv | Requirements


def parse_env(env: object) -> Kind | None:
    """An environment from what the user gave as ``env``; a plain string names a conda environment.

    Raises:
        TypeError: it is neither.
        ValueError: a string that is no name.
    """
    if env is None or isinstance(env, (VirtualEnv, CondaEnv, Requirements)):
        return env
    if isinstance(env, str):
        return CondaEnv(env)
    raise TypeError(
        f"env must be a CondaEnv, a VirtualEnv, Requirements or the name of a conda environment, not {env!r}"
    )


def env_form(kind: Kind | None) -> dict[str, Any] | None:
    """An environment as a configuration file has it."""
    if kind is None:
        return None
    if isinstance(kind, CondaEnv):
        return {"conda": kind.name}
    if isinstance(kind, VirtualEnv):
        return {"virtualenv": kind.path}
    return {"requirements": list(kind.packages), **({"python": kind.python} if kind.python is not None else {})}
