"""Handlers of calls that read: functions of an :class:`~pointsman.console.table.Ask` that return plain values."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import msgspec

from pointsman.configfile.fields import NO_JSON, as_json, config_fields
from pointsman.console.preview import preview
from pointsman.console.problems import Problem
from pointsman.console.table import Ask, Versioned
from pointsman.model import BackendSpec

MOST_SHOWN_S = 60.0


def me(ask: Ask) -> Any:
    """Whose token it is."""
    holder = ask.holder
    return {
        "name": holder.name,
        "role": holder.role,
        "expires": holder.expires or None,
        "read_only": ask.read_only,
    }


def status(ask: Ask) -> Any:
    """All of the instance."""
    found = ask.client.status()
    return Versioned(found, found["version"])


def stats(ask: Ask) -> Any:
    """What was counted, over some seconds or since the start."""
    over_s = ask.number("over_s")
    if over_s is not None and not over_s <= MOST_SHOWN_S:
        raise ValueError(f"over_s must be at most {MOST_SHOWN_S:g}, not {over_s:g}")
    return ask.client.stats(over_s)


def endpoints(ask: Ask) -> Any:
    """Route, methods, traffic and shadows of each endpoint."""
    return ask.client.list_endpoints()


def backends(ask: Ask) -> Any:
    """The state of each backend, as the status has it."""
    return ask.client.status()["backends"]


def traffic(ask: Ask) -> Any:
    """The traffic policy in force."""
    found = ask.client.get_traffic(ask.endpoint)
    return Versioned(found, found["version"])


def traffic_preview(ask: Ask) -> Any:
    """What other weights would do."""
    client = ask.client
    return preview(
        ask.endpoint,
        ask.body.weights,
        traffic=client.get_traffic(ask.endpoint),
        history=client.traffic_history(ask.endpoint),
        status=client.status(),
        by=f"token {ask.holder.name}",
        now=datetime.now(timezone.utc),
    )


def traffic_history(ask: Ask) -> Any:
    """The last traffic policies of an endpoint."""
    return ask.client.traffic_history(ask.endpoint)


def explain(ask: Ask) -> Any:
    """Who answers a key, and why."""
    return ask.client.explain(ask.endpoint, shard_key=ask.query.get("key"), version=ask.whole("version"))


def rollout(ask: Ask) -> Any:
    """The newest rollout of an endpoint."""
    try:
        return ask.client.rollout(ask.endpoint)
    except ValueError as error:  # there is no such endpoint, or it has had none
        raise Problem(404, str(error)) from None


def shadow_report(ask: Ask) -> Any:
    """What came of comparing a shadow's answers."""
    return ask.client.shadow_report(ask.endpoint, ask.backend)


def backend(ask: Ask) -> Any:
    """One backend: its part of the status, its configuration, and its last failures."""
    client, tag = ask.client, ask.backend
    spec = client._existing(tag)
    found: dict[str, Any] = client.status()["backends"][tag]
    config = config_view(spec)
    is_shown = config["user_config"] != NO_JSON or spec.config.user_config is None
    if not is_shown:
        del config["user_config"]
    shown = {**found, "config": config, "user_config_shown": is_shown, "failures": client.failures(tag)}
    return Versioned(shown, spec.config_version)


def history(ask: Ask) -> Any:
    """The last changes of the instance, or of one of its objects."""
    changes, wanted = ask.client.history(), ask.query.get("object")
    return changes if wanted is None else [change for change in changes if change["object"] == wanted]


def config_view(spec: BackendSpec) -> dict[str, Any]:
    """The configuration of a backend under the names of its fields."""
    fields = {name.removeprefix("config."): as_json(name, value) for name, value in config_fields(spec.config).items()}
    plain: dict[str, Any] = msgspec.to_builtins(fields)
    return plain


def missing(ask: Ask) -> str:
    """What in the path of a call does not exist, as one sentence; empty if all does."""
    known = ask.client.status()
    name, tag = ask.names.get("endpoint"), ask.names.get("backend")
    if name is not None and name not in known["endpoints"]:
        return f"endpoint {name!r} does not exist; there are {sorted(known['endpoints'])}"[:500]
    if tag is not None and tag not in known["backends"]:
        return f"backend {tag!r} does not exist; there are {sorted(known['backends'])}"[:500]
    return ""
