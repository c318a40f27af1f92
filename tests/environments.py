"""Real environments for tests, made once in a session: a virtual environment takes uv half a second."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pointsman.environments.interpreter import runtime_requirements

PYENV = Path.home() / ".pyenv" / "versions"


class Environments:
    """Virtual environments by what is in them.

    Args:
        folder: where they are made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[tuple[str, ...], Path] = {}

    def get(self, *packages: str, python: str = sys.executable, runtime: bool = True) -> Path:
        """One with these packages, and with those that replicas need unless ``runtime`` is false. Shared: leave it as
        it is, or take a :meth:`copy`."""
        key = (python, str(runtime), *packages)
        if key not in self._made:
            self._made[key] = self._make(packages, python, runtime)
        return self._made[key]

    def copy(self, *packages: str, to: Path) -> Path:
        """A copy of :meth:`get` that may be changed."""
        shutil.copytree(self.get(*packages), to, symlinks=True)
        return to

    def conda(self, root: Path, name: str, *packages: str) -> Path:
        """The same laid out as conda does: ``<root>/envs/<name>``."""
        prefix = self.copy(*packages, to=root / "envs" / name)
        for folder in (prefix, root):
            (folder / "conda-meta").mkdir(exist_ok=True)
        return prefix

    def _make(self, packages: tuple[str, ...], python: str, runtime: bool) -> Path:
        folder = self._folder / str(len(self._made))
        wanted = [*packages, *(runtime_requirements() if runtime else [])]
        uv = [sys.executable, "-m", "uv", "--quiet"]
        subprocess.run([*uv, "venv", "--python", python, str(folder)], check=True, timeout=60)
        if wanted:
            pip = [*uv, "pip", "install", "--python", str(folder / "bin" / "python"), *wanted]
            subprocess.run(pip, check=True, timeout=120)
        return folder


def site_packages(prefix: Path) -> Path:
    """Where an environment's packages are."""
    return next(prefix.glob("lib/python3*/site-packages"))


def other_python() -> str:
    """An interpreter of another minor version that can run replicas; skips the test where there is none."""
    here = f"3.{sys.version_info[1]}"
    for minor in ("3.13", "3.12", "3.11", "3.10"):
        installed = sorted(PYENV.glob(f"{minor}.*/bin/python"))
        found = str(installed[-1]) if installed else shutil.which(f"python{minor}")
        if minor != here and found:
            return found
    pytest.skip(f"no other Python than {here} is on this machine (looked for python3.10 to 3.13, and in {PYENV})")
