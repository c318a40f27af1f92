"""What the facts of an instance mean: findings, each in one sentence. Pure."""

from __future__ import annotations

import shlex
from typing import Any, NamedTuple

from pointsman.doctor.judging import LEAST_ROOM, Finding, size
from pointsman.engine.folder import NETWORK_FILE_SYSTEMS

MOST_LOGS = 2 * 1024**3
LOCKED = "locked"
"""What comes instead of a good answer from a server that lives, and lets only hosts or clients in that it knows."""


class Store(NamedTuple):
    """A folder: its file system as Linux names it, "" elsewhere, and bytes free."""

    path: str
    kind: str
    room: int


class Condition(NamedTuple):
    """Facts of an instance that lives.

    Attributes:
        own_release: that of this command.
        release: that which it runs; "" if it does not say.
        fault: why its controller gave no answer; "" if it did.
        status: what the controller says; empty without an answer.
        http: address of its HTTP server; "" without one.
        http_fault, console_fault: what came instead of a good answer; "" for a good one.
        ready: whether ``/-/readyz`` is 200.
        console: address of its console; "" without one.
        state: where its state is stored; None if that ends with it.
        logs, log_bytes: its log folder; "" if it is not on this machine.
    """

    name: str
    own_release: str
    release: str
    fault: str
    status: dict[str, Any]
    http: str
    http_fault: str
    ready: bool
    console: str
    console_fault: str
    state: Store | None
    logs: str
    log_bytes: int


def judge_instance(seen: Condition) -> list[Finding]:
    """All findings about an instance; the names of its checks begin with its name."""
    found = [_controller(seen), _release(seen)]
    if not seen.fault:
        found += [_backend(seen, tag, one) for tag, one in seen.status["backends"].items()]
        if not seen.status["backends"]:
            found.append(Finding("backends", True, f"It has no backend; run: {_command(seen, 'deploy')} TARGET"))
    found += [*_http(seen), *_console(seen), *_state(seen), *_logs(seen)]
    return [one._replace(check=f"{seen.name}/{one.check}") for one in found]


def _command(seen: Condition, verb: str) -> str:
    return f"pointsman {verb}" + ("" if seen.name == "default" else f" --name {shlex.quote(seen.name)}")


def _controller(seen: Condition) -> Finding:
    if not seen.fault:
        return Finding("controller", True, f"The controller answers (process {seen.status['controller_pid']}).")
    text = f"The controller gives no answer ({seen.fault}); requests go on; read: {_command(seen, 'logs')}"
    return Finding("controller", False, text)


def _release(seen: Condition) -> Finding:
    if seen.release and seen.release != seen.own_release:
        text = (
            f"It runs {seen.release} and this command is {seen.own_release}; run: {_command(seen, 'upgrade')}, or use "
            "the command of that release."
        )
        return Finding("release", False, text)
    return Finding("release", True, f"It runs {seen.release or 'a release that it does not say'}.")


def _backend(seen: Condition, tag: str, backend: dict[str, Any]) -> Finding:
    check, failure = f"backend {tag}", backend["failure"]
    running, wanted = backend["replicas_running"], backend["replicas_wanted"]
    if failure is not None:
        why = failure["text"].strip().splitlines()[0] if failure["text"].strip() else failure["reason"]
        read = f"{_command(seen, 'logs')} {shlex.quote(tag)}"
        text = f"{running} of {wanted} replicas run; the last failure: {why}; read: {read}"
        return Finding(check, False, text)
    if running < wanted and backend["state"] in ("UNHEALTHY", "DEPLOY_FAILED"):
        text = f"{running} of {wanted} replicas run ({backend['state']}); read: {_command(seen, 'status')}"
        return Finding(check, False, text)
    if running < wanted:
        return Finding(check, True, f"{running} of {wanted} replicas run, and more are starting.")
    return Finding(check, True, f"{running} of {wanted} replicas run.")


def _http(seen: Condition) -> list[Finding]:
    if not seen.http:
        return [Finding("http", True, "It has no HTTP server.")]
    if seen.http_fault == LOCKED:
        text = f"{seen.http} answers, and lets in only hosts or certificates that it knows, so no more was asked."
        return [Finding("http", True, text)]
    if seen.http_fault:
        text = f"{seen.http} gives no good answer ({seen.http_fault}); read: {_command(seen, 'logs')}"
        return [Finding("http", False, text)]
    if not seen.ready:
        text = f"{seen.http} answers, and is not ready: backends have not come up, or it is ending."
        return [Finding("http", False, f"{text[:-1]}; read: {_command(seen, 'status')}")]
    return [Finding("http", True, f"{seen.http} answers and is ready.")]


def _console(seen: Condition) -> list[Finding]:
    if not seen.console:
        return [Finding("console", True, f"It has no console; for one, run: {_command(seen, 'console')}")]
    if seen.console_fault:
        text = f"{seen.console} gives no good answer ({seen.console_fault}); it is started again within seconds."
        return [Finding("console", False, f"{text[:-1]}, else read: {_command(seen, 'logs')}")]
    return [Finding("console", True, f"{seen.console} answers.")]


def _state(seen: Condition) -> list[Finding]:
    state = seen.state
    if seen.fault:
        return []  # only the controller knows where its state is
    if state is None:
        return [Finding("state", True, "Its state ends with it; start with --state-dir to keep it.")]
    if state.kind in NETWORK_FILE_SYSTEMS:
        text = f"{state.path} is on a network file system ({state.kind}), where locks may lie; move it to a local disk."
        return [Finding("state", False, text)]
    if state.room < LEAST_ROOM:
        text = f"{state.path} has {size(state.room)} free, and changes need to be written; make room."
        return [Finding("state", False, text)]
    on = f" on {state.kind}" if state.kind else ""
    return [Finding("state", True, f"{state.path} is{on or ' there'}, with {size(state.room)} free.")]


def _logs(seen: Condition) -> list[Finding]:
    if not seen.logs:
        return [Finding("logs", True, "Its logs are on other machines.")]
    if seen.log_bytes > MOST_LOGS:
        text = f"{seen.logs} has {size(seen.log_bytes)}; delete files of replicas that are gone."
        return [Finding("logs", False, text)]
    return [Finding("logs", True, f"{seen.logs} has {size(seen.log_bytes)}.")]
