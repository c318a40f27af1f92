"""A rehearsal: a backend's code is loaded once in its environment, before the backend is accepted.

What cannot be imported there shows at the caller as one sentence, and the markers of code that only the environment has
are read from the real function or class. The constructor does not run.

    python -m pointsman.environments.rehearsal      an Order on standard input, a Verdict on standard output
"""

from __future__ import annotations

import os
import signal
import sys

import msgspec

from pointsman.context import set_rehearsing
from pointsman.environments.interpreter import last_words, run_in
from pointsman.limits import cut
from pointsman.model import Environment, Origin, TargetTraits
from pointsman.progress import Activity
from pointsman.usercode.packing import look_at, unpack_code
from pointsman.usercode.paths import enter

TIMEOUT_S = 120.0
"""Importing a large library from a cold disk takes tens of seconds."""


class Order(msgspec.Struct, frozen=True):
    origin: Origin
    code: bytes


class Verdict(msgspec.Struct, frozen=True):
    """``traits`` of what was loaded; without them ``problem`` says why, and ``kind`` what the caller shall be raised:
    ``load``, ``TypeError`` or ``ValueError``."""

    traits: TargetTraits | None
    problem: str = ""
    kind: str = ""


def rehearse(what: str, code: bytes, origin: Origin, environment: Environment) -> TargetTraits:
    """Load packed code in an environment; returns what is seen of it there.

    Args:
        what: the code's name in error texts.

    Raises:
        ValueError: it cannot be loaded there.
        TypeError: what it names cannot be a backend.
    """
    order = msgspec.msgpack.encode(Order(origin, code))
    with Activity(f"loading {what} in {environment}"):
        ended = run_in(environment, ["-m", "pointsman.environments.rehearsal"], timeout_s=TIMEOUT_S, stdin=order)
    where = f"in {environment} ({environment.python})"
    try:
        verdict = msgspec.msgpack.decode(ended.stdout, type=Verdict)
    except msgspec.DecodeError:
        raise ValueError(f"loading {what} {where} ended the interpreter: {last_words(ended)}") from None
    if verdict.traits is not None:
        return verdict.traits
    if verdict.kind == "load":
        raise ValueError(f"{what} cannot be loaded {where}: {verdict.problem}")
    raise (TypeError if verdict.kind == "TypeError" else ValueError)(verdict.problem)


def _judge(order: Order) -> Verdict:
    set_rehearsing()
    try:
        enter(order.origin)
        function_or_class, init_args = unpack_code(order.code)
    except BaseException as error:  # noqa: BLE001 - user code, which may also exit: it is the verdict
        text = cut(" ".join(str(error).split()))
        return Verdict(None, f"{type(error).__name__}: {text}" if text else type(error).__name__, "load")
    try:
        return Verdict(look_at(function_or_class, init_args))
    except (TypeError, ValueError) as error:
        return Verdict(None, cut(str(error)), type(error).__name__)


def main() -> None:
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Order)
    answer_fd = os.dup(1)
    os.dup2(2, 1)  # what user code prints is no answer
    with os.fdopen(answer_fd, "wb") as answer:
        answer.write(msgspec.msgpack.encode(_judge(order)))
        answer.flush()
        if os.getpgrp() == os.getpid():  # threads and processes that the import has started are not waited for
            os.killpg(0, signal.SIGKILL)
        os._exit(0)


if __name__ == "__main__":
    main()
