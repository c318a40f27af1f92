"""Environments that are made here from a list of requirements, once, and kept for whoever wants the same again.

    <cache>/environments/<digest>/          the virtual environment
                         <digest>/made      JSON; written last, so what has none is half made and is thrown away
    <cache>/locks/<digest>                  held while it is made or removed

The digest is of all that decides what is in it. :func:`kept_environments` lists what is there.
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


MARK = "made"


class Made(msgspec.Struct, frozen=True):
    """What an environment was made from.

    Attributes:
        packages: as the user wrote them.
        runtime: what was installed for replicas beside them.
        python: the interpreter that it is based on.
        version: of that, with its build.
    """

    packages: tuple[str, ...]
    runtime: tuple[str, ...]
    python: str
    version: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:32]


def environments_folder() -> Path:
    """Where they are kept."""
    return cache_folder("environments")


def ensure(kind: Requirements, python: str, version: str) -> Path:
    """The environment of these requirements, made now if it is not there yet.

    Args:
        python: the interpreter to base it on; ``version`` is its version and build.

    Raises:
        ValueError: it cannot be made; the text has the installer's reason, and nothing of it is left.
    """
    runtime = tuple(sorted(runtime_requirements()))
    wanted = Made(kind.packages, runtime, os.path.realpath(python), version)
    prefix = environments_folder() / wanted.digest
    shown = f"environment of {', '.join(kind.packages)}"
    with Activity(f"waiting for whoever makes the {shown}") as activity, _locked(prefix) as lock:
        mark = prefix / MARK
        if mark.exists() and (prefix / "bin" / "python").exists():
            os.utime(mark)  # its age decides when it may go
            return prefix
        installer = find_installer(kind.installer)
        activity.title = f"making the {shown} with {installer.name}"
        _make(shown, prefix, wanted, installer, activity, lock)
    return prefix


def _make(shown: str, prefix: Path, wanted: Made, installer: Installer, activity: Activity, lock: int) -> None:
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
    """The descriptor of the file whose lock guards an environment; not locked yet."""
    path = cache_folder("locks") / prefix.name
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


@contextlib.contextmanager
def _locked(prefix: Path) -> Iterator[int]:
    """One process at a time; the lock ends with its last holder, however that ends."""
    lock = open_lock(prefix)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def this_version() -> str:
    """Version and build of the running interpreter."""
    return " ".join(sys.version.split())


FRESH_S = 600.0
"""One that was asked for this recently may be on its way into an instance, which does not show it yet."""


class Kept(NamedTuple):
    """An environment on disk.

    Attributes:
        prefix: its folder.
        made: what from; None when its making was cut off.
        size: in bytes, of all files; some may be links into a cache of the installer.
        unused_s: seconds since somebody last asked for it.
    """

    prefix: Path
    made: Made | None
    size: int
    unused_s: float

    @property
    def python(self) -> str:
        """Its interpreter, as a backend that uses it names it."""
        return str(self.prefix / "bin" / "python")


def kept_environments() -> list[Kept]:
    """All that there are, last used first."""
    folders = [path for path in environments_folder().iterdir() if path.is_dir()]
    return sorted(map(_look, folders), key=lambda kept: kept.unused_s)


def prunable(kept: Kept, used: Collection[str], unused_s: float) -> bool:
    """Whether an environment may go.

    Args:
        used: interpreters of backends that exist.
        unused_s: seconds for which nobody must have asked for it; at least 600.
    """
    return kept.python not in used and (kept.made is None or kept.unused_s >= max(unused_s, FRESH_S))


def remove(kept: Kept) -> bool:
    """Remove an environment; False when somebody is making it right now."""
    lock = open_lock(kept.prefix)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        (kept.prefix / MARK).unlink(missing_ok=True)  # first: what is half removed must not pass for whole
        shutil.rmtree(kept.prefix)
        return True
    finally:
        os.close(lock)


def remove_dangling_links() -> None:
    """Remove links to modules that are gone."""
    for folder in cache_folder("links").iterdir():
        if not any(link.exists() for link in folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


def _look(prefix: Path) -> Kept:
    mark = prefix / MARK
    try:
        made, used = msgspec.json.decode(mark.read_bytes(), type=Made), mark.stat().st_mtime
    except (FileNotFoundError, msgspec.DecodeError):
        made, used = None, prefix.stat().st_mtime
    return Kept(prefix, made, sum(_sizes(prefix)), max(0.0, time.time() - used))


def _sizes(folder: Path) -> Iterator[int]:
    for parent, _, files in os.walk(folder):
        for name in files:
            yield os.lstat(os.path.join(parent, name)).st_size
