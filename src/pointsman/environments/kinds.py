"""What users write for ``env=``. Checked for shape here; whether it exists is for ``resolve``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


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
        object.__setattr__(self, "path", str(Path(path).expanduser().absolute()))


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


Kind = VirtualEnv | CondaEnv


def parse_env(env: object) -> Kind | None:
    """An environment from what the user gave as ``env``; a plain string names a conda environment.

    Raises:
        TypeError: it is neither.
        ValueError: a string that is no name.
    """
    if env is None or isinstance(env, (VirtualEnv, CondaEnv)):
        return env
    if isinstance(env, str):
        return CondaEnv(env)
    raise TypeError(f"env must be a CondaEnv, a VirtualEnv or the name of a conda environment, not {env!r}")
