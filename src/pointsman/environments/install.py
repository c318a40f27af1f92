"""Makes a virtual environment and installs into it, with uv or with venv and pip."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

TIMEOUT_S = 3600.0
"""Large packages over a slow line take this long, and not longer."""
PIP_OPTIONS = ("--no-input", "--disable-pip-version-check")
KEPT_LINES = 20
MAX_REASON = 600
_FRAMES = str.maketrans("", "", "\N{MULTIPLICATION SIGN}╰─▶│├")
_VERSIONS = re.compile(r" \(from versions: [^)]*\)")
_UNWANTED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX")

Say = Callable[[str], None]


class Installer(NamedTuple):
    """A way to make environments.

    Attributes:
        name: for people.
        uv: path of uv; None for venv and pip.
    """

    name: str
    uv: str | None

    def make(self, what: str, prefix: Path, python: str, packages: Sequence[str], say: Say, lock: int) -> None:
        """Make a new environment with packages.

        Args:
            what: its name in error texts.
            python: the interpreter to base it on.
            say: called with each line of output.
            lock: descriptor that the tool inherits: when we are killed the lock lasts until the tool, too, has ended.

        Raises:
            ValueError: it failed; the text has the tool's reason.
        """
        own = str(prefix / "bin" / "python")
        if self.uv is not None:
            create = [self.uv, "venv", "--python", python, str(prefix)]
            install = [self.uv, "pip", "install", "--python", own]
        elif _pip_installs_elsewhere():
            create = [python, "-m", "venv", "--without-pip", str(prefix)]
            install = [sys.executable, "-m", "pip", "--python", own, "install", *PIP_OPTIONS]
        else:
            create = [python, "-m", "venv", str(prefix)]
            install = [own, "-m", "pip", "install", *PIP_OPTIONS]
        _run(what, self.name, create, say, lock)
        listing = prefix / "requirements.txt"
        listing.write_text("".join(f"{package}\n" for package in packages))
        _run(what, self.name, [*install, "--requirement", str(listing)], say, lock)


def find_installer(wanted: str | None) -> Installer:
    """uv where there is one, beside this interpreter or on the ``PATH``; else venv and pip.

    Args:
        wanted: ``"uv"`` or ``"pip"`` to have this one; None for either.

    Raises:
        ValueError: uv is wanted, and is not there.
    """
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")
    if wanted == "uv" and uv is None:
        raise ValueError("installer 'uv' is wanted, and there is no uv on the PATH; use 'pip', or install uv")
    return Installer("venv and pip", None) if wanted == "pip" or uv is None else Installer("uv", uv)


def _run(what: str, tool: str, command: Sequence[str], say: Say, lock: int) -> None:
    variables = {name: value for name, value in os.environ.items() if name not in _UNWANTED}
    process = subprocess.Popen(
        command,
        cwd="/",
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=(lock,),
        text=True,
        errors="replace",
    )
    late = threading.Event()

    def stop() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(TIMEOUT_S, stop)
    timer.start()
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())
            say(line.strip())
        code = process.wait()
    finally:
        timer.cancel()
        _kill(process)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    if late.is_set():
        raise ValueError(f"{what} could not be made: {tool} was not done after {TIMEOUT_S:g} s")
    if code:
        raise ValueError(f"{what} could not be made, {tool} says: {_reason(lines) or f'exit code {code}'}")


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _reason(lines: Sequence[str]) -> str:
    """What an installer complains about, on one line: pip's errors, or the last that uv says."""
    errors = [_VERSIONS.sub("", line.removeprefix("ERROR:")).strip() for line in lines if line.startswith("ERROR:")]
    if errors:
        return "; ".join(errors)[:MAX_REASON]
    said = " ".join(" ".join(lines).translate(_FRAMES).split())
    return said.partition("error: ")[2][:MAX_REASON] or said[-MAX_REASON:]


def _pip_installs_elsewhere() -> bool:
    """Whether this interpreter has a pip that can install for others, which spares them a pip of their own."""
    try:
        version = importlib.metadata.version("pip").split(".")
    except importlib.metadata.PackageNotFoundError:
        return False
    return (int(version[0]), int(version[1])) >= (22, 3)
