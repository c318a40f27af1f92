"""Handlers of calls that change something. Each returns what is in force afterwards; the controller decides whether the
user may."""

from __future__ import annotations

import math
from typing import Any

from pointsman.console import reads
from pointsman.console.problems import Problem
from pointsman.console.table import Ask


def set_traffic(ask: Ask) -> Any:
    """Other weights, other shadows, or both in one change."""
    if ask.body.weights is None and ask.body.shadows is None:
        raise ValueError("the body has neither weights nor shadows; give one of them")
    ask.client.set_traffic(ask.endpoint, ask.body.weights, shadows=ask.body.shadows)
    return reads.traffic(ask)


def roll_back(ask: Ask) -> Any:
    """An earlier policy again."""
    ask.client.rollback_traffic(ask.endpoint, ask.body.version)
    return reads.traffic(ask)


def pin(ask: Ask) -> Any:
    """Fix the backend of some keys."""
    ask.client.pin(ask.endpoint, ask.body.keys, ask.body.backend)
    return reads.traffic(ask)


def unpin(ask: Ask) -> Any:
    """Let the weights decide about some keys."""
    keys = ask.body.keys
    if ask.body.backend is not None:
        pins = ask.client.get_traffic(ask.endpoint)["pins"]
        keys = [key for key in keys if pins.get(key) == ask.body.backend]
    if keys:
        ask.client.unpin(ask.endpoint, keys)
    return reads.traffic(ask)


def pause(ask: Ask) -> Any:
    """Keep the present step."""
    return _control(ask, ask.client.pause_rollout)


def resume(ask: Ask) -> Any:
    """Go on."""
    return _control(ask, ask.client.resume_rollout)


def promote(ask: Ask) -> Any:
    """Take the last step."""
    return _control(ask, ask.client.promote_rollout)


def abort(ask: Ask) -> Any:
    """Go back."""
    return _control(ask, ask.client.abort_rollout)


def update_config(ask: Ask) -> Any:
    """Other values of some fields of a backend's configuration."""
    if not ask.body:
        raise ValueError('the body has no field; give those that shall change, such as {"num_replicas": 2}')
    ask.client.update_backend_config(ask.backend, ask.body)
    return reads.backend(ask)


def hold(ask: Ask) -> Any:
    """Fix the number of replicas for a while."""
    if not 0 < ask.body.for_s < math.inf:
        raise ValueError(f"for_s must be a number of seconds above 0, not {ask.body.for_s!r}")
    ask.client.scale(ask.backend, ask.body.replicas, hold_s=ask.body.for_s, wait=False)
    return reads.backend(ask)


def release(ask: Ask) -> Any:
    """Let the number of replicas follow the calls again."""
    ask.client.release(ask.backend)
    return reads.backend(ask)


def wake(ask: Ask) -> Any:
    """Have replicas started."""
    ask.client.wake(ask.backend)
    return reads.backend(ask)


def unload(ask: Ask) -> Any:
    """Drain to no replica."""
    ask.client.unload(ask.backend)
    return reads.backend(ask)


def _control(ask: Ask, verb: Any) -> Any:
    reads.rollout(ask)
    try:
        verb(ask.endpoint)
    except ValueError as error:  # it has ended, or is paused already
        raise Problem(409, str(error)) from None
    return reads.rollout(ask)
