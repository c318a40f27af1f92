"""Chooses the backend of a call to one endpoint: by pin, custom policy, shard key or weights, in this order."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from pointsman.model import EndpointSpec, Pins
from pointsman.model.evidence import PINNED, ROUTED, SHADOW, TallyKey
from pointsman.policy.traffic import CallInfo, TrafficSplit
from pointsman.routing.call import Call
from pointsman.routing.ownpolicy import load_for
from pointsman.telemetry.logs import WarningBudget
from pointsman.telemetry.tallies import Tallies
from pointsman.telemetry.values import TallyValues
from pointsman.telemetry.writer import ByLabels
from pointsman.usercode.packing import shown

log = logging.getLogger(__name__)

NO_PINS = Pins()


class Chooser:
    """Applies one endpoint's traffic policy in this process.

    A custom policy that cannot be imported, raises, or names an unknown backend fails no call: the built-in choice is
    used, with a warning.

    Args:
        endpoint: its specification.
        pins: shard keys with a fixed backend.
        tallies: where calls are counted; None to count nothing.

    Attributes:
        backends: tags of all backends that calls may go to.
        shadows: share of the calls that is mirrored, by tag of the backend.
        tallies: of calls that no pin has placed, by tag of the backend; None where nothing is counted.
    """

    def __init__(self, endpoint: EndpointSpec, pins: Pins = NO_PINS, tallies: Tallies | None = None) -> None:
        self.endpoint = endpoint
        self.pins = pins
        self._pins = pins.keys
        self.split = TrafficSplit(endpoint.name, endpoint.policy)
        self.version = endpoint.policy.version
        self.shadows: Mapping[str, float] = endpoint.policy.shadows
        weights, custom = endpoint.policy.weights, endpoint.policy.custom
        self.backends = {tag for tag in weights if weights[tag] or custom} | set(pins.keys.values())
        self._custom: Any = load_for(endpoint) if custom else None
        self._number = 0
        self._budget = WarningBudget()
        self.tallies, self._of_pins, self._of_shadows = (self._tallies(tallies, k) for k in (ROUTED, PINNED, SHADOW))

    def tally_for(self, shard_key: str, backend: str) -> TallyValues | None:
        """Where a call with this key that goes to this backend is counted."""
        tallies = self._of_pins if shard_key in self._pins else self.tallies
        return tallies[backend] if tallies is not None else None

    def tally_of_shadow(self, backend: str) -> TallyValues | None:
        """Where copies for this backend are counted."""
        return self._of_shadows[backend] if self._of_shadows is not None else None

    def _tallies(self, tallies: Tallies | None, kind: str) -> ByLabels[str, TallyValues] | None:
        if tallies is None:
            return None
        return ByLabels(lambda tag: tallies.of(TallyKey(self.endpoint.name, self.version, tag, kind)))

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

    def _choose_by_policy(self, policy: Any, call: CallInfo, draw: float) -> str | None:
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
