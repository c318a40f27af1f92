"""Runs an environment's interpreter to find out its version and its packages."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.resources
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence

import msgspec

from pointsman.model import Environment
from pointsman.version import VERSION
from pointsman.wire.frames import PROTOCOL_VERSION

OLDEST = (3, 10)
PROBE_TIMEOUT_S = 8.0
#: Packages that every replica imports, some of them with the first request.
RUNTIME = ("cloudpickle", "msgspec", "starlette")
#: Packages that replicas use if installed. Without uvloop, sequential requests ran at 0.74 to 0.98 of the throughput.
OPTIONAL = ("uvloop",)


class Facts(msgspec.Struct, frozen=True):
    """What ``question.py`` found out about an interpreter.

    Attributes:
        version: version of Python.
        build: ``sys.version``, with compiler and date.
        missing: packages of :data:`RUNTIME` that are missing or too old.
        pointsman: version of the installed pointsman; empty if there is none.
        wire: version of that one's wire protocol.
        problem: why that one cannot be imported; empty if it can.
    """

    version: tuple[int, int, int]
    build: str
    missing: list[str]
    pointsman: str
    wire: int
    problem: str


def probe(environment: Environment) -> Facts:
    """Run an environment's interpreter to find out what it has.

    Raises:
        ValueError: the interpreter cannot be run, or takes longer than 8 s.
    """
    source = importlib.resources.files("pointsman.environments").joinpath("question.py").read_text()
    ended = run_in(environment, ["-c", source, *runtime_requirements(RUNTIME)], timeout_s=PROBE_TIMEOUT_S)
    try:
        return msgspec.json.decode(ended.stdout.strip().rpartition(b"\n")[2], type=Facts)
    except msgspec.DecodeError:
        raise ValueError(
            f"the interpreter of {environment}, {environment.python}, does not work: {exit_reason(ended)}"
        ) from None


def check(environment: Environment, facts: Facts) -> None:
    """Check that replicas can run in an environment.

    Raises:
        ValueError: they cannot; the text says what the environment has and what is needed.
    """
    version = ".".join(map(str, facts.version))
    if facts.version < OLDEST:
        raise ValueError(
            f"{environment} has Python {version}, and Pointsman needs {'.'.join(map(str, OLDEST))} or later"
        )
    if facts.problem:
        raise ValueError(f"{environment} ({environment.python}) has a pointsman that cannot be used: {facts.problem}")
    if facts.pointsman and facts.wire != PROTOCOL_VERSION:
        raise ValueError(
            f"{environment} has pointsman {facts.pointsman} (wire version {facts.wire}), which cannot talk to this"
            f" pointsman {VERSION} (wire version {PROTOCOL_VERSION}); install the same version there"
        )
    if facts.missing:
        wanted = " ".join(f"'{requirement}'" for requirement in runtime_requirements(facts.missing))
        raise ValueError(
            f"{environment} lacks {', '.join(facts.missing)}, which replicas need, or has them too old; install with:"
            f" {environment.python} -m pip install {wanted}"
        )


def check_version(environment: Environment, facts: Facts) -> None:
    """Check that an environment's Python is new enough. Raises ValueError if it is not."""
    if facts.version < OLDEST:
        version = ".".join(map(str, facts.version))
        raise ValueError(f"{environment} has Python {version}, and Pointsman needs {OLDEST[0]}.{OLDEST[1]} or later")


def runtime_requirements(names: Sequence[str] = (*RUNTIME, *OPTIONAL)) -> list[str]:
    """Requirements of replicas, with the versions that pointsman's own metadata declares."""
    try:
        declared = importlib.metadata.requires("pointsman") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source without being installed
        declared = []
    by_name = {re.split(r"[^\w.-]", text, maxsplit=1)[0]: text.partition(";")[0].strip() for text in declared}
    return [by_name.get(name, name) for name in names]


def run_in(
    environment: Environment, arguments: Sequence[str], *, timeout_s: float, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run an environment's interpreter with the environment's variables. The rest is as for :func:`run_bounded`."""
    what = f"the interpreter of {environment}, {environment.python},"
    command = [environment.python, *arguments]
    return run_bounded(what, command, environment.over(os.environ), timeout_s=timeout_s, stdin=stdin)


def run_bounded(
    what: str, command: Sequence[str], variables: Mapping[str, str], *, timeout_s: float, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run a program in ``/``, and kill its process group afterwards.

    Args:
        what: the program's name in error texts.

    Raises:
        ValueError: the program cannot be run, or takes longer than ``timeout_s`` seconds.
    """
    try:
        process = subprocess.Popen(
            command,
            cwd="/",
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise ValueError(f"{what} cannot be run: {error.strerror}") from None
    try:
        stdout, stderr = process.communicate(stdin, timeout_s)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{what} was not done after {timeout_s:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def exit_reason(ended: subprocess.CompletedProcess[bytes]) -> str:
    """Why a process failed: the last line of its standard error, or its exit code or signal."""
    lines = ended.stderr.decode(errors="replace").strip().splitlines()
    if lines:
        return lines[-1].strip()
    code = ended.returncode
    return f"it was killed by signal {-code}" if code < 0 else f"it ended with exit code {code}"
