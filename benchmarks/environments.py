"""Environments of peers other than Mosec: each in a folder of its own under ``.peers``, made when it is not there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from peers import HERE


class Environment(NamedTuple):
    """A virtual environment with one package.

    Attributes:
        folder: under ``.peers``.
        package, version: what is installed.
        extra: of the package, in brackets.
    """

    folder: str
    package: str
    version: str
    extra: str = ""

    @property
    def path(self) -> Path:
        return HERE / ".peers" / self.folder

    @property
    def python(self) -> str:
        return str(self.path / "bin" / "python")

    def ensure(self, say: Callable[[str], None]) -> None:
        """Make it when it is not there.

        Raises:
            subprocess.SubprocessError, OSError: pip could not install the package; its output has been shown.
        """
        if self._installed() == self.version:
            return
        requirement = f"{self.package}{self.extra}=={self.version}"
        say(f"making {self.path} with {requirement}")
        shutil.rmtree(self.path, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(self.path)], check=True, timeout=120)
        pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, requirement], check=True, timeout=600)

    def _installed(self) -> str:
        code = f"from importlib.metadata import version; print(version({self.package!r}))"
        try:
            done = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=False, timeout=30)
        except FileNotFoundError:
            return ""
        return done.stdout.strip()


LITSERVE = Environment("litserve", "litserve", "0.2.19")
RAY = Environment("ray", "ray", "2.60.0", "[serve]")
