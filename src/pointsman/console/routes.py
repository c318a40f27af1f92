"""The table of all calls of the API. What is not in it does not exist, and ``openapi.json`` is made of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pointsman.console import bodies, reads, writes
from pointsman.console.loglines import LogTail
from pointsman.console.openapi import document
from pointsman.console.operations import Operations
from pointsman.console.table import Ask, Call, Query
from pointsman.model.tokens import DEPLOY, OPERATE

TEXT = {"type": "string"}
NUMBER = {"type": "number"}
WHOLE = {"type": "integer"}
ANY_LIST = {"type": "array", "items": {"type": "object"}}
TRAFFIC = "/endpoints/{endpoint}/traffic"
ROLLOUT = "/endpoints/{endpoint}/rollout"
PINS = "/endpoints/{endpoint}/pins"
HOLD = "/backends/{backend}/hold"

OF_INSTANCE = (
    Call("GET", "/me", reads.me, "Whose token this is: name and role."),
    Call("GET", "/status", reads.status, "What runs, what does not and why; as pointsman status --json."),
    Call(
        "GET",
        "/stats",
        reads.stats,
        "Requests, errors, latencies and queues; as pointsman top --json.",
        query=(Query("over_s", "Seconds to measure for, at most 60; none: since the start.", NUMBER),),
    ),
    Call("GET", "/endpoints", reads.endpoints, "Route, methods, traffic and shadows of each endpoint."),
    Call("GET", "/backends", reads.backends, "State, replicas, code and last failure of each backend."),
    Call(
        "GET",
        "/history",
        reads.history,
        "The last 200 changes of backends and endpoints, oldest first.",
        query=(Query("object", "Only changes of this one, such as backend/ranker.", TEXT),),
        answer=ANY_LIST,
    ),
)

OF_ENDPOINTS = (
    Call("GET", TRAFFIC, reads.traffic, "The traffic policy in force: weights, shadows, pins."),
    Call(
        "PUT",
        TRAFFIC,
        writes.set_traffic,
        "Set weights, shadows, or both in one change.",
        OPERATE,
        bodies.Traffic,
        is_change=True,
    ),
    Call(
        "POST",
        f"{TRAFFIC}/preview",
        reads.traffic_preview,
        "Say what other weights would do: which share of the keys moves where, and what speaks against it.",
        body=bodies.Weights,
    ),
    Call(
        "GET",
        "/endpoints/{endpoint}/history",
        reads.traffic_history,
        "The last 50 traffic policies, oldest first.",
        answer=ANY_LIST,
    ),
    Call(
        "POST",
        "/endpoints/{endpoint}/rollback",
        writes.roll_back,
        "Bring an earlier traffic policy back.",
        OPERATE,
        bodies.ToVersion,
        is_change=True,
    ),
    Call(
        "GET",
        "/endpoints/{endpoint}/explain",
        reads.explain,
        "Which backend answers calls with a shard key, and why.",
        query=(
            Query("key", "The shard key; none: calls without one.", TEXT),
            Query("version", "Of an earlier traffic policy; none: the one in force.", WHOLE),
        ),
    ),
    Call("PUT", PINS, writes.pin, "Pin shard keys to a backend.", OPERATE, bodies.Pinned, is_change=True),
    Call("DELETE", PINS, writes.unpin, "Unpin shard keys.", OPERATE, bodies.Unpinned, is_change=True),
    Call("GET", ROLLOUT, reads.rollout, "The newest rollout of the endpoint."),
    Call("POST", f"{ROLLOUT}/pause", writes.pause, "Keep the present step of the rollout.", OPERATE, is_change=True),
    Call("POST", f"{ROLLOUT}/resume", writes.resume, "Let a paused rollout go on.", OPERATE, is_change=True),
    Call(
        "POST", f"{ROLLOUT}/promote", writes.promote, "Take the rollout's last step at once.", OPERATE, is_change=True
    ),
    Call("POST", f"{ROLLOUT}/abort", writes.abort, "Restore the weights from before.", OPERATE, is_change=True),
    Call(
        "GET",
        "/endpoints/{endpoint}/shadows/{backend}",
        reads.shadow_report,
        "What came of comparing a shadow's answers.",
    ),
)

OF_BACKENDS = (
    Call("GET", "/backends/{backend}", reads.backend, "One backend: state, replicas, code, configuration."),
    Call(
        "PATCH",
        "/backends/{backend}/config",
        writes.update_config,
        "Change fields of a backend's configuration; those that are left out stay.",
        OPERATE,
        dict[str, Any],
        is_change=True,
    ),
    Call(
        "PUT",
        HOLD,
        writes.hold,
        "Fix an autoscaled backend's number of replicas.",
        OPERATE,
        bodies.Held,
        is_change=True,
    ),
    Call("DELETE", HOLD, writes.release, "Let it follow the calls again.", OPERATE, is_change=True),
    Call(
        "POST", "/backends/{backend}/wake", writes.wake, "Start a backend that has no replica.", OPERATE, is_change=True
    ),
    Call("POST", "/backends/{backend}/unload", writes.unload, "Drain a backend to none.", OPERATE, is_change=True),
)


def read_config(ask: Ask) -> Any:
    """The file of what runs."""
    from pointsman.console import configs  # here, as in the next two: 3 MB that most consoles never need

    return configs.read_config(ask)


def diff_config(ask: Ask) -> Any:
    """What a file would change."""
    from pointsman.console import configs

    return configs.diff_config(ask)


def apply_config(ask: Ask) -> Any:
    """Carry a file out."""
    from pointsman.console import configs

    return configs.apply_config(ask)


FILE_OPTIONS = (
    Query("on_conflict", "What is done about fields that others have set.", {"enum": ["refuse", "overwrite", "keep"]}),
    Query("adopt", "Whether objects of others are taken over: true or false.", {"type": "boolean"}),
    Query("if_version", "Only if the state still is of this version.", WHOLE),
)
LOAD = Query("load", "Whether its code is loaded, true by default; only for who may deploy.", {"type": "boolean"})
OF_CONFIG = (
    Call(
        "GET",
        "/config",
        read_config,
        "The configuration file of what runs, as JSON; as pointsman export.",
        query=(
            Query("owner", "Name of a file: only its objects.", TEXT),
            Query("partial", "Whether to leave out what no file can have: true or false.", {"type": "boolean"}),
            Query("format", "json, or yaml for the text of a file.", {"enum": ["json", "yaml"]}),
        ),
    ),
    Call(
        "POST",
        "/config/diff",
        diff_config,
        "What a file would change; as pointsman diff. Its code is loaded for deploy tokens only.",
        body=bodies.ConfigFile,
        query=(*FILE_OPTIONS, LOAD),
    ),
    Call(
        "PUT",
        "/config",
        apply_config,
        "Carry out a file; as pointsman apply. All of it happens, or nothing.",
        DEPLOY,
        bodies.ConfigFile,
        query=FILE_OPTIONS,
        is_change=True,
    ),
)
LOGS = (
    Query("backend", "Only what its replicas say.", TEXT),
    Query("request_id", "Only what is about the request of this id.", TEXT),
    Query("text", "Only lines with this in them, in upper or lower case.", TEXT),
    Query(
        "lines",
        "How many at most, 200 by default: 1 to 1000, and never more than 200 of what came since an answer.",
        WHOLE,
    ),
    Query("after", "What came since an answer: its next.", TEXT),
)


def all_calls(operations: Operations, tail: LogTail, more: Iterable[Call] = ()) -> list[Call]:
    """All calls.

    Args:
        operations: changes that last.
        tail: of the log files.
        more: calls of what is sampled in this process.
    """

    def operation(ask: Ask) -> Any:
        return operations.result(ask.names["id"])

    calls = [
        *OF_INSTANCE,
        *OF_CONFIG,
        *more,
        *OF_ENDPOINTS,
        *OF_BACKENDS,
        Call("GET", "/logs", tail.answer, "The newest lines that the processes have logged and printed.", query=LOGS),
        Call(
            "GET",
            "/operations/{id}",
            operation,
            "What a change has answered that took longer than its request; 202 again until then.",
        ),
    ]

    def openapi(ask: Ask) -> Any:
        return document(calls)

    calls.append(Call("GET", "/openapi.json", openapi, "This document.", is_open=True))
    return calls
