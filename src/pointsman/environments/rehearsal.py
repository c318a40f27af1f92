"""The trial import: a backend's code is loaded once in its environment, before the backend is registered.

Code that cannot be imported there is one sentence for the caller. Traits of code that only the environment has, such
as its batch marker, are read from the real function or class; and what its import has loaded from folders of the user's
is digested, which tells new code from old. The constructor does not run.

    python -m pointsman.environments.rehearsal      a TrialOrder on standard input, a TrialResult on standard output
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from typing import NamedTuple

import msgspec

from pointsman.context import begin_trial_import
from pointsman.environments.interpreter import exit_reason, run_in
from pointsman.limits import cut
from pointsman.model import Environment, Origin, TargetTraits
from pointsman.progress import Activity
from pointsman.usercode.content import content_digest, drop_old_bytecode, loaded_files
from pointsman.usercode.packing import folder_of, inspect_code, unpack_code
from pointsman.usercode.paths import PACKAGE, enter

#: Importing a large library from a cold disk takes tens of seconds.
TIMEOUT_S = 120.0
#: What stands in a traceback above the user's code.
_LOADERS = (PACKAGE + os.sep, "<frozen importlib", str(importlib.__file__))


class TrialOrder(msgspec.Struct, frozen=True):
    origin: Origin
    code: bytes


class TrialResult(msgspec.Struct, frozen=True):
    """Result of a trial import.

    Attributes:
        traits: of the loaded function or class; None if it cannot be a backend.
        problem: why it cannot.
        kind: ``load`` if it could not be loaded; otherwise the exception to raise, ``TypeError`` or ``ValueError``.
        content: digest of the modules of the user's that it has loaded.
        files: of these modules, by their names.
        folder: where the file of the function or class is; empty if it has none.
        traceback: of the user's code, if that raised while it was loaded.
    """

    traits: TargetTraits | None
    problem: str = ""
    kind: str = ""
    content: str = ""
    folder: str = ""
    files: dict[str, str] = {}
    traceback: str = ""


class LoadError(ValueError):
    """Code cannot be loaded where it is to run. Its author's fault.

    Attributes:
        traceback: of the user's code; empty if that did not raise.
    """

    def __init__(self, text: str, traceback: str) -> None:
        super().__init__(text)
        self.traceback = traceback


class Rehearsed(NamedTuple):
    """What a trial import has found out about code; for the fields see :class:`TrialResult`."""

    traits: TargetTraits
    content: str
    folder: str
    files: dict[str, str]


def try_import(what: str, code: bytes, origin: Origin, environment: Environment) -> Rehearsed:
    """Load packed code in an environment.

    Args:
        what: the code's name in error texts.
        code: made by :func:`~pointsman.usercode.packing.pack_code`.
        origin: its working folder and import path are those of the trial, and their modules are the user's.

    Raises:
        LoadError: it cannot be loaded there.
        ValueError: the environment's interpreter ended, or took too long.
        TypeError: it is neither a function nor a class that can be a backend.
    """
    order = msgspec.msgpack.encode(TrialOrder(origin, code))
    with Activity(f"loading {what} in {environment}"):
        ended = run_in(environment, ["-m", "pointsman.environments.rehearsal"], timeout_s=TIMEOUT_S, stdin=order)
    where = f"in {environment} ({environment.python})"
    try:
        result = msgspec.msgpack.decode(ended.stdout, type=TrialResult)
    except msgspec.DecodeError:
        raise ValueError(f"loading {what} {where} ended the interpreter: {exit_reason(ended)}") from None
    if result.traits is not None:
        return Rehearsed(result.traits, result.content, result.folder, result.files)
    if result.kind == "load":
        raise LoadError(f"{what} cannot be loaded {where}: {result.problem}", result.traceback)
    raise (TypeError if result.kind == "TypeError" else ValueError)(result.problem)


def _load(order: TrialOrder) -> TrialResult:
    begin_trial_import()
    try:
        enter(order.origin)
        function_or_class, init_args = unpack_code(order.code)
    except BaseException as error:  # noqa: BLE001 - user code, which may also exit: it is the result
        text = cut(" ".join(str(error).split()))
        what = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return TrialResult(None, what, "load", traceback=_traceback_of(error))
    try:
        traits = inspect_code(function_or_class, init_args)
    except (TypeError, ValueError) as error:
        return TrialResult(None, cut(str(error)), type(error).__name__)
    files = loaded_files([order.origin.cwd, *order.origin.sys_path])
    drop_old_bytecode(files)
    return TrialResult(traits, content=content_digest(files), folder=folder_of(function_or_class), files=files)


def _traceback_of(error: BaseException) -> str:
    """The traceback from the user's first line on; empty if none of the user's has run."""
    inner = error.__traceback__
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_LOADERS):
        inner = inner.tb_next
    return cut("".join(traceback.format_exception(type(error), error, inner))) if inner is not None else ""


def main() -> None:
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=TrialOrder)
    answer_fd = os.dup(1)
    os.dup2(2, 1)  # what user code prints must not get into the answer
    with os.fdopen(answer_fd, "wb") as answer:
        answer.write(msgspec.msgpack.encode(_load(order)))
        answer.flush()
        if os.getpgrp() == os.getpid():  # does not wait for threads and processes that the import started
            os.killpg(0, signal.SIGKILL)
        os._exit(0)


if __name__ == "__main__":
    main()
