"""Chooses the backend of a call to one endpoint: by pin, custom policy, shard key or weights, in this order."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Mapping
from typing import Any

from pointsman.model import CustomPolicy, EndpointSpec, Pins
from pointsman.policy.traffic import CallInfo, Policy, TrafficSplit
from pointsman.routing.call import Call
from pointsman.telemetry.logs import WarningBudget
from pointsman.usercode.packing import import_object, shown

log = logging.getLogger(__name__)

NO_PINS = Pins()


class Chooser:
    """Applies one endpoint's traffic policy in this process.

    A custom policy that cannot be imported, raises, or names an unknown backend fails no call: the built-in choice is
    used, with a warning.

    Args:
        endpoint: its specification.
        pins: shard keys with a fixed backend.

    Attributes:
        backends: tags of all backends that calls may go to.
        shadows: share of the calls that is mirrored, by tag of the backend.
    """

    def __init__(self, endpoint: EndpointSpec, pins: Pins = NO_PINS) -> None:
        self.endpoint = endpoint
        self.pins = pins
        self._pins = pins.keys
        self.split = TrafficSplit(endpoint.name, endpoint.policy)
        self.version = endpoint.policy.version
        self.shadows: Mapping[str, float] = endpoint.policy.shadows
        weights, custom = endpoint.policy.weights, endpoint.policy.custom
        self.backends = {tag for tag in weights if weights[tag] or custom} | set(pins.keys.values())
        self._custom = _load(endpoint) if custom else None
        self._number = 0
        self._budget = WarningBudget()

    def choose(self, call: Call, draw: float) -> str:
        """The backend for a call, given a ``draw`` that is uniform in [0, 1)."""
        key = call.shard_key
        if key is not None and key in self._pins:
            return self._pins[key]
        if self._custom is not None:
            head = call.request
            info = CallInfo(head.endpoint, key, self._number, head.http_method, head.path, head.query, head.headers)
            self._number += 1
            chosen = self._choose_by_policy(self._custom, info, draw)
            if chosen is not None:
                return chosen
        return self.split.by_weight(draw) if key is None else self.split.by_key(key)

    def explain(self, shard_key: str | None) -> dict[str, Any]:
        """Which backend answers calls with this key, or without a key, and why, as plain values for JSON."""
        backend, numbers = None, {}
        if shard_key is None:
            why = "weight" if self._custom is None else "policy"
            if self._custom is None and not self.split.draws:
                backend = self.split.by_weight(0.0)
        elif shard_key in self._pins:
            why, backend = "pin", self._pins[shard_key]
        else:
            info = CallInfo(self.endpoint.name, shard_key, 0, "GET", b"", b"", [])
            why, backend = (
                "policy",
                self._choose_by_policy(self._custom, info, 0.0) if self._custom is not None else None,
            )
            if backend is None:
                why, backend, numbers = "shard key", self.split.by_key(shard_key), self.split.numbers(shard_key)
        return {
            "endpoint": self.endpoint.name,
            "shard_key": shard_key,
            "backend": backend,
            "why": why,
            "policy_version": self.version,
            "weights": dict(self.split.weights),
            "numbers": numbers,
        }

    def _choose_by_policy(self, policy: Policy, call: CallInfo, draw: float) -> str | None:
        """The backend chosen by the custom policy; None if it raised or named an unknown backend."""
        try:
            chosen = policy.choose(call, self.split, draw)
            if isinstance(chosen, str) and chosen in self.split.weights:
                return chosen
            problem = f"named {shown(chosen)}, which is none of {sorted(self.split.weights)}"
        except BaseException as error:  # noqa: BLE001 - user code; neither the call nor the router must suffer
            problem = f"raised {shown(error)}"
        if self._budget.take("custom", time.monotonic()) is not None:
            log.warning("the traffic policy of endpoint %r %s; the built-in one is used", call.endpoint, problem)
        return None


class NotAPolicyError(TypeError):
    """The imported object is not a traffic policy."""


def load_policy(custom: CustomPolicy) -> Policy:
    """Import a custom policy. A class is instantiated without arguments.

    Raises:
        ImportError: the module, or the name in it, does not exist.
        NotAPolicyError: the object has no method ``choose`` that takes a call, a split and a draw, or it is ``async``.
        Exception: raised by user code while it is imported or constructed.
    """
    found: Any = import_object(custom.path, custom.sys_path)
    policy = found() if isinstance(found, type) else found
    choose = getattr(policy, "choose", None)
    try:
        if choose is None:
            raise TypeError
        inspect.signature(choose).bind(None, None, 0.0)
    except TypeError:
        problem = f"{custom.path!r} is {shown(policy)}, which has no method choose(call, split, draw)"
        raise NotAPolicyError(problem) from None
    if inspect.iscoroutinefunction(choose):
        raise NotAPolicyError(
            f"{custom.path!r} has an async method choose; a policy may not wait, so make it a plain def"
        )
    return policy  # type: ignore[no-any-return]


def _load(endpoint: EndpointSpec) -> Policy | None:
    custom = endpoint.policy.custom
    assert custom is not None
    try:
        return load_policy(custom)
    except BaseException as error:  # noqa: BLE001 - the module is user code, which may even try to exit
        log.error(
            "the traffic policy %r of endpoint %r cannot be used here, and the built-in one takes its place: %s",
            custom.path,
            endpoint.name,
            shown(error),
        )
        return None
