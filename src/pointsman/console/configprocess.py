"""Compares a configuration file with its code loaded, or carries it out, for a user of the console.

    python -m pointsman.console.configprocess      an Order on standard input, JSON on standard output

A process of its own, since policies of users are imported in the one that plans. The token goes with each command.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

import msgspec

from pointsman.calling.session import Credentials
from pointsman.configfile.applying import apply_config, compare, declared_of
from pointsman.configfile.plan import Rules
from pointsman.console.behalf import UserClient
from pointsman.console.configs import READING_S, Order, check_version, config_of, diff_fields
from pointsman.console.problems import problem_of
from pointsman.engine.process import die_with_parent
from pointsman.engine.relay import set_relay

#: Of a process that only reads a file, in bytes: so much that no honest file of 1 MiB comes near it.
MOST_MEMORY = 2 << 30


def carry_out(order: Order) -> tuple[Any, int]:
    """What is answered, and the version of the state.

    Raises:
        Exception: as :func:`pointsman.configfile.applying.apply_config`.
    """
    set_relay(order.relay)
    credentials = Credentials(order.instance, order.control_path, order.role, "", order.key, 60.0)
    client = UserClient(credentials, order.token, if_version=order.if_version, key=order.idempotency)
    declared = declared_of(client)
    check_version(declared, order.if_version)
    rules = Rules(order.on_conflict, order.adopt)  # type: ignore[arg-type]
    if not order.loads:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (READING_S, READING_S + 1))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        try:
            return diff_fields(client, order.file, declared, rules), declared.version
        except MemoryError:
            raise ValueError("the file takes too much memory to read; make it shorter") from None
    config = config_of(order.file, declared)
    if not order.applies:
        outcome = compare(client, config, rules).outcome
        return {**outcome.as_json(), "loaded": True}, outcome.version
    outcome = apply_config(client, config, rules, if_version=order.if_version)
    return {"version": outcome.version, **outcome.by_action()}, outcome.version


def main() -> None:
    die_with_parent()  # code of users may go on for ever
    order = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Order)
    out = os.dup(1)
    os.dup2(2, 1)  # what code of users prints is no answer
    try:
        result, version = carry_out(order)
        told: dict[str, Any] = {"result": result, "version": version}
    except Exception as error:  # told to whoever asked, but for a mistake of our own
        problem = problem_of(error)
        if problem.status == 500:
            raise
        told = {"problem": problem.as_json()}
    with os.fdopen(out, "w") as answer:
        json.dump(told, answer)


if __name__ == "__main__":
    main()
