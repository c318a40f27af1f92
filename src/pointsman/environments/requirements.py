"""Makes virtual environments from requirements. Each is made once and stored in the user's cache for later use.

    <cache>/environments/<digest>/          the virtual environment
                         <digest>/made      its Recipe as JSON; written last, so a folder without it is incomplete
    <cache>/locks/<digest>                  locked while the environment is made or removed

The digest is of the :class:`Recipe`, which has everything that decides about the content.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from pointsman.engine.folder import cache_folder
from pointsman.environments.interpreter import runtime_requirements
from pointsman.environments.kinds import Requirements
from pointsman.progress import Activity

#: Installing large packages over a slow connection can take most of an hour.
TIMEOUT_S = 3600.0
PIP_OPTIONS = ("--no-input", "--disable-pip-version-check")
KEPT_LINES = 20
MAX_REASON = 600
# Characters with which uv draws frames around its messages.
_FRAMES = str.maketrans("", "", "\N{MULTIPLICATION SIGN}╰─▶│├")
_VERSIONS = re.compile(r" \(from versions: [^)]*\)")
_UNWANTED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "CONDA_PREFIX")

MARK = "made"
#: An environment that was requested this recently may belong to a backend that is not registered yet.
MIN_UNUSED_S = 600.0

OnLine = Callable[[str], None]


class Installer(NamedTuple):
    """A tool that makes environments.

    Attributes:
        name: its name in texts for users.
        uv: path of uv; None for venv and pip.
    """

    name: str
    uv: str | None

    def make(self, what: str, prefix: Path, python: str, packages: Sequence[str], on_line: OnLine, lock: int) -> None:
        """Make a new environment with packages.

        Args:
            what: the environment's name in error texts.
            python: the interpreter to base it on.
            on_line: called with each line of the tool's output.
            lock: descriptor that the tool inherits. If this process is killed, the lock is held until the tool ends.

        Raises:
            ValueError: the tool failed; the text has its reason.
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
        _run(what, self.name, create, on_line, lock)
        listing = prefix / "requirements.txt"
        listing.write_text("".join(f"{package}\n" for package in packages))
        _run(what, self.name, [*install, "--requirement", str(listing)], on_line, lock)


def find_installer(wanted: str | None) -> Installer:
    """The installer to use: uv if it is beside this interpreter or on the ``PATH``, otherwise venv and pip.

    Args:
        wanted: ``"uv"`` or ``"pip"`` to choose; None for either.

    Raises:
        ValueError: uv is chosen, and not found.
    """
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")
    if wanted == "uv" and uv is None:
        raise ValueError("installer 'uv' is wanted, and there is no uv on the PATH; use 'pip', or install uv")
    return Installer("venv and pip", None) if wanted == "pip" or uv is None else Installer("uv", uv)


def _run(what: str, tool: str, command: Sequence[str], on_line: OnLine, lock: int) -> None:
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
            on_line(line.strip())
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
    """An installer's failure on one line: pip's errors, or the text after uv's last ``error:``."""
    errors = [_VERSIONS.sub("", line.removeprefix("ERROR:")).strip() for line in lines if line.startswith("ERROR:")]
    if errors:
        return "; ".join(errors)[:MAX_REASON]
    said = " ".join(" ".join(lines).translate(_FRAMES).split())
    return said.partition("error: ")[2][:MAX_REASON] or said[-MAX_REASON:]


def _pip_installs_elsewhere() -> bool:
    """Whether this interpreter's pip can install into other environments, so that they need no pip of their own."""
    try:
        version = importlib.metadata.version("pip").split(".")
    except importlib.metadata.PackageNotFoundError:
        return False
    return (int(version[0]), int(version[1])) >= (22, 3)


class Recipe(msgspec.Struct, frozen=True):
    """What an environment is made from.

    Attributes:
        packages: requirements that the user gave.
        runtime: requirements of replicas.
        python: the interpreter that it is based on.
        version: version and build of that interpreter.
    """

    packages: tuple[str, ...]
    runtime: tuple[str, ...]
    python: str
    version: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:32]


def environments_folder() -> Path:
    return cache_folder("environments")


def ensure(kind: Requirements, python: str, version: str) -> Path:
    """The folder of the environment with these requirements; makes it if it does not exist.

    Args:
        python: the interpreter to base it on.
        version: version and build of that interpreter.

    Raises:
        ValueError: it cannot be made; the text has the installer's reason. Nothing of it is left.
    """
    runtime = tuple(sorted(runtime_requirements()))
    wanted = Recipe(kind.packages, runtime, os.path.realpath(python), version)
    prefix = environments_folder() / wanted.digest
    shown = f"environment of {', '.join(kind.packages)}"
    with Activity(f"waiting for whoever makes the {shown}") as activity, _locked(prefix) as lock:
        mark = prefix / MARK
        if mark.exists() and (prefix / "bin" / "python").exists():
            os.utime(mark)  # `pointsman env prune` goes by this time
            return prefix
        installer = find_installer(kind.installer)
        activity.title = f"making the {shown} with {installer.name}"
        _make(shown, prefix, wanted, installer, activity, lock)
    return prefix


def _make(shown: str, prefix: Path, wanted: Recipe, installer: Installer, activity: Activity, lock: int) -> None:
    shutil.rmtree(prefix, ignore_errors=True)
    try:
        installer.make(shown, prefix, wanted.python, [*wanted.packages, *wanted.runtime], activity.show, lock)
        unfinished = prefix / f"{MARK}.new"
        unfinished.write_bytes(msgspec.json.encode(wanted))
        unfinished.rename(prefix / MARK)
    except BaseException:
        shutil.rmtree(prefix, ignore_errors=True)
        raise


def open_lock(prefix: Path) -> int:
    """Open the lock file of an environment; the caller locks it."""
    path = cache_folder("locks") / prefix.name
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@contextlib.contextmanager
def _locked(prefix: Path) -> Iterator[int]:
    """Hold an environment's lock. The kernel releases it when the last process that inherited it ends."""
    lock = open_lock(prefix)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def interpreter_build() -> str:
    """Version and build of the running interpreter, as ``Facts.build`` has them for others."""
    return " ".join(sys.version.split())


class StoredEnvironment(NamedTuple):
    """An environment on disk.

    Attributes:
        prefix: its folder.
        recipe: what it was made from; None if it is incomplete.
        size: size of all files in bytes. Some may be hard links into the installer's cache.
        unused_s: seconds since it was last requested.
    """

    prefix: Path
    recipe: Recipe | None
    size: int
    unused_s: float

    @property
    def python(self) -> str:
        """Path of its interpreter, spelled as in the status of a backend that uses it."""
        return str(self.prefix / "bin" / "python")


def stored_environments() -> list[StoredEnvironment]:
    """All stored environments, the last used first."""
    folders = [path for path in environments_folder().iterdir() if path.is_dir()]
    return sorted(map(_inspect, folders), key=lambda kept: kept.unused_s)


def prunable(kept: StoredEnvironment, used: Collection[str], unused_s: float) -> bool:
    """Whether an environment may be removed.

    Args:
        used: interpreters of existing backends.
        unused_s: seconds that must have passed since it was last requested; at least 600.
    """
    return kept.python not in used and (kept.recipe is None or kept.unused_s >= max(unused_s, MIN_UNUSED_S))


def remove(kept: StoredEnvironment) -> bool:
    """Remove an environment; False if another process is making it right now."""
    lock = open_lock(kept.prefix)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        (kept.prefix / MARK).unlink(missing_ok=True)  # first: without it, a partly removed folder counts as incomplete
        shutil.rmtree(kept.prefix)
        return True
    finally:
        os.close(lock)


def remove_dangling_links() -> None:
    """Remove folders whose links all lead to modules that no longer exist."""
    for folder in cache_folder("links").iterdir():
        if not any(link.exists() for link in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


def _inspect(prefix: Path) -> StoredEnvironment:
    mark = prefix / MARK
    try:
        recipe, used = msgspec.json.decode(mark.read_bytes(), type=Recipe), mark.stat().st_mtime
    except (FileNotFoundError, msgspec.DecodeError):
        recipe, used = None, prefix.stat().st_mtime
    return StoredEnvironment(prefix, recipe, sum(_sizes(prefix)), max(0.0, time.time() - used))


def _sizes(folder: Path) -> Iterator[int]:
    for parent, _, files in os.walk(folder):
        for name in files:
            yield os.lstat(os.path.join(parent, name)).st_size
