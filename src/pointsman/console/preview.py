"""What other weights of an endpoint would do: which keys move, and what speaks against it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from pointsman.policy.flows import flows

RECENT_S = 600.0
"""A change of somebody else that is younger is told."""
MANY_ERRORS = 0.01
FEW_REQUESTS = 20
GOOD = ("RUNNING", "UPDATING", "SCALING", "IDLE")


def preview(
    endpoint: str,
    weights: Mapping[str, float],
    *,
    traffic: Mapping[str, Any],
    history: list[dict[str, Any]],
    status: Mapping[str, Any],
    by: str,
    now: datetime,
) -> dict[str, Any]:
    """``{"moves", "flows": [{"from", "to", "share"}], "warnings"}``.

    Args:
        weights: those that are thought of.
        traffic: what ``Client.get_traffic`` returns of the endpoint.
        history: what ``Client.traffic_history`` returns of it.
        status: what ``Client.status`` returns.
        by: who asks, as the history names them.

    Raises:
        ValueError: the weights cannot be set, as ``set_traffic`` would say.
    """
    unknown = sorted(set(weights) - set(status["backends"]))
    if unknown:
        raise ValueError(f"backend {unknown[0]!r} does not exist; there are {sorted(status['backends'])}")
    moved = flows(traffic["weights"], weights)
    warnings = [
        *_of_policy(traffic),
        *(line for tag in weights for line in _of_backend(tag, endpoint, weights[tag], traffic, status)),
        *_of_rollout(status["rollouts"].get(endpoint)),
        *_of_others(history, by, now),
    ]
    return {
        "moves": min(1.0, sum(moved.values())),
        "flows": [{"from": one, "to": other, "share": share} for (one, other), share in moved.items()],
        "warnings": warnings,
    }


def _of_policy(traffic: Mapping[str, Any]) -> Iterator[str]:
    if traffic["policy"] != "weighted":
        yield f"the policy {traffic['policy']} of your own decides what moves; the shares are those of the built-in one"
    if pins := len(traffic["pins"]):
        yield f"{pins} pinned key{'s stay where they are' if pins > 1 else ' stays where it is'}"


def _of_backend(
    tag: str, endpoint: str, weight: float, traffic: Mapping[str, Any], status: Mapping[str, Any]
) -> Iterator[str]:
    if not weight > traffic["weights"].get(tag, 0.0):
        return
    backend = status["backends"][tag]
    running, wanted = backend["replicas_running"], backend["replicas_wanted"]
    if backend["state"] not in GOOD:
        why = f": {backend['failure']['text']}" if backend.get("failure") else ""
        yield f"{tag} is {backend['state']}{why}"
    if not running and wanted:
        yield f"{tag} has no replica that runs, of {wanted}"
    elif not wanted:
        yield f"{tag} has no replica: the first call wakes it"
    elif running < wanted:
        yield f"{tag} has {running} of {wanted} replicas"
    window = (status["endpoints"][endpoint].get("last_minute") or {}).get("backends", {}).get(tag)
    if window and window["requests"] >= FEW_REQUESTS and window["errors"] > MANY_ERRORS * window["requests"]:
        share = window["errors"] / window["requests"]
        yield f"{tag} has answered {share:.1%} of its calls with errors in the last minute"


def _of_rollout(rollout: Mapping[str, Any] | None) -> Iterator[str]:
    if rollout is not None and not rollout["ended"]:
        yield f"a rollout to {rollout['plan']['to']} is under way, and ends with this change"


def _of_others(history: list[dict[str, Any]], by: str, now: datetime) -> Iterator[str]:
    if len(history) < 2:  # the endpoint's first policy is nobody's change
        return
    last = history[-1]
    age_s = (now - datetime.fromisoformat(last["time"].replace("Z", "+00:00"))).total_seconds()
    if last["by"] != by and age_s < RECENT_S:
        when = f"{age_s:.0f} s" if age_s < 90 else f"{age_s / 60:.0f} min"
        yield f"{last['by']} changed this {when} ago"
