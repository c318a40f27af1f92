"""The trial import: a backend's code is loaded once in its environment, before the backend is registered.

Code that cannot be imported there is one sentence for the caller. Traits of code that only the environment has, such
as its batch marker, are read from the real function or class. The constructor does not run.

    python -m pointsman.environments.rehearsal      a TrialOrder on standard input, a TrialResult on standard output
"""

from __future__ import annotations

import os
import signal
import sys

import msgspec

from pointsman.context import begin_trial_import
from pointsman.environments.interpreter import exit_reason, run_in
from pointsman.limits import cut
from pointsman.model import Environment, Origin, TargetTraits
from pointsman.progress import Activity
from pointsman.usercode.packing import inspect_code, unpack_code
from pointsman.usercode.paths import enter

#: Importing a large library from a cold disk takes tens of seconds.
TIMEOUT_S = 120.0


class TrialOrder(msgspec.Struct, frozen=True):
    origin: Origin
    code: bytes


class TrialResult(msgspec.Struct, frozen=True):
    """Result of a trial import.

    Attributes:
        traits: of the loaded function or class; None if it cannot be a backend.
        problem: why it cannot.
        kind: ``load`` if it could not be loaded; otherwise the exception to raise, ``TypeError`` or ``ValueError``.
    """

    traits: TargetTraits | None
    problem: str = ""
    kind: str = ""


def try_import(what: str, code: bytes, origin: Origin, environment: Environment) -> TargetTraits:
    """Load packed code in an environment; returns the traits of the function or class.

    Args:
        what: the code's name in error texts.
        code: made by :func:`~pointsman.usercode.packing.pack_code`.

    Raises:
        ValueError: it cannot be loaded there.
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
        return result.traits
    if result.kind == "load":
        raise ValueError(f"{what} cannot be loaded {where}: {result.problem}")
    raise (TypeError if result.kind == "TypeError" else ValueError)(result.problem)


def _load(order: TrialOrder) -> TrialResult:
    begin_trial_import()
    try:
        enter(order.origin)
        function_or_class, init_args = unpack_code(order.code)
    except BaseException as error:  # noqa: BLE001 - user code, which may also exit: it is the result
        text = cut(" ".join(str(error).split()))
        return TrialResult(None, f"{type(error).__name__}: {text}" if text else type(error).__name__, "load")
    try:
        return TrialResult(inspect_code(function_or_class, init_args))
    except (TypeError, ValueError) as error:
        return TrialResult(None, cut(str(error)), type(error).__name__)


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
