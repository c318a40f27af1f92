"""The process of a user's autoscaling policy: limited in memory, and killed by the controller if an answer takes too
long (:mod:`pointsman.controller.scaling.policies`).

argv: the socket
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from pointsman.engine.limited import READY, connected, read_message, write_message
from pointsman.model.scaling import ScalingPolicy
from pointsman.policy.scaling.context import NoAnswerError, PolicyContext, answer_of
from pointsman.usercode.packing import import_object, shown

MAX_STATE = 1024 * 1024
"""Bytes of the pickled state of a policy."""


class Question(msgspec.Struct, array_like=True):
    """What a policy is asked: the context, and apart from it the pickled state, which only its own process reads."""

    context: PolicyContext
    state: bytes = b""


class Answer(msgspec.Struct, array_like=True, frozen=True):
    """What a policy has answered: replicas, and the pickled state; or what is wrong with it."""

    wants: float | None = None
    state: bytes = b""
    problem: str = ""


def main() -> None:
    connection = connected()
    policy = msgspec.msgpack.decode(read_message(connection), type=ScalingPolicy)
    try:
        function = import_object(policy.path, policy.sys_path)
    except BaseException as error:  # noqa: BLE001 - user code, which may even try to exit
        write_message(connection, f"it cannot be imported: {shown(error)}".encode())
        sys.exit(1)
    write_message(connection, READY)
    while True:
        question = msgspec.msgpack.decode(read_message(connection), type=Question)
        write_message(connection, msgspec.msgpack.encode(answered(function, question)))


def answered(function: Callable[[PolicyContext], Any], question: Question) -> Answer:
    """Call the policy, and make of what it returns or raises an answer."""
    try:
        state = pickle.loads(question.state) if question.state else {}
        wants, state = answer_of(function(msgspec.structs.replace(question.context, policy_state=state)), state)
    except NoAnswerError as error:
        return Answer(problem=str(error))
    except BaseException as error:  # noqa: BLE001 - user code, which may even try to exit
        return Answer(problem=f"it raised {shown(error)}")
    try:
        packed = pickle.dumps(state)
    except BaseException as error:  # noqa: BLE001 - user code has made it
        return Answer(problem=f"its state cannot be pickled: {shown(error)}")
    if len(packed) > MAX_STATE:
        return Answer(problem=f"its state takes {len(packed)} bytes, over the limit of {MAX_STATE} bytes")
    return Answer(wants, packed)


if __name__ == "__main__":
    main()
