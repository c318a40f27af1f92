"""The routing table, which is made of desired and observed state and published when it changes: whole at first, then by
what has changed (decision 0058)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Protocol

from pointsman.controller.observed import Observed
from pointsman.controller.orders import Peers
from pointsman.controller.replicas import Phase
from pointsman.controller.scaling.following import follows_calls
from pointsman.controller.scaling.looking import counted
from pointsman.controller.scaling.prospects import Prospect, prospect_of
from pointsman.controller.state import Desired
from pointsman.model import BackendRoute, BackendSpec, Pins, ReplicaRef, RoutingTable
from pointsman.wire.messages import pack
from pointsman.wire.tables import TableChange, changed, with_changes

CLOCK_STEP_S = 1.0
"""By more than this the time of day has been set, or the machine has slept."""


class Keys(Protocol):
    """Derives the keys of replicas."""

    def data_key(self, number: int) -> bytes: ...


def route_of(
    spec: BackendSpec, desired: Desired, observed: Observed, keys: Keys, *, counts: bool, epoch: float
) -> BackendRoute:
    """A backend's entry in the routing table, with its replicas that take calls.

    Args:
        counts: whether routers count its calls for the controller.
        epoch: time of day, in seconds since 1970, at 0 of the controller's clock.
    """
    refs = tuple(
        ReplicaRef(r.number, r.tag, r.address, keys.data_key(r.number), r.node, r.tcp, r.version)
        for r in observed.of(spec.tag)
        if r.phase is Phase.READY and not r.killed and r.unhealthy is None
    )
    config = spec.config
    prospect = Prospect() if refs or not follows_calls(config) else prospect_of(spec.tag, desired, observed)
    return BackendRoute(
        spec.tag,
        refs,
        config.query_limit,
        config.max_queued_queries,
        spec.traits.one_at_a_time,
        config.max_websockets,
        spec.traits.api,
        counts,
        _time_of_day(prospect.ready_at, epoch),
        _time_of_day(prospect.refused_until, epoch),
        spec.traits.multiplexed,
    )


def _time_of_day(at: float, epoch: float) -> float:
    """The same in tenths of a second since 1970, 0 for 0: nobody waits for more exact ones."""
    return round(at + epoch, 1) if at else 0.0


def wall_ahead_s() -> float:
    """By how many seconds the time of day is ahead of the clock that does not jump."""
    return datetime.now(timezone.utc).timestamp() - time.monotonic()


class Publisher:
    """Publishes the routing table.

    Args:
        peers: receive each table.
        keys: derives the keys of replicas, which the table contains.
        version: versions of tables are larger than this.
        epoch: time of day, in seconds since 1970, at 0 of the controller's clock; None for that of the first table. It
            follows when the time of day is set.

    Attributes:
        table: the newest table.
        published: False until the first table is published.
    """

    def __init__(self, peers: Peers, keys: Keys, *, version: int, epoch: float | None = None) -> None:
        self.epoch = epoch
        self._ahead_s = wall_ahead_s()
        self._peers = peers
        self._keys = keys
        self._touched: set[str] = set()
        self._pins: dict[str, Pins] = {}
        self._counted: frozenset[str] = frozenset()
        self._counted_of: tuple[object, object] = (None, None)
        self.table = RoutingTable(version, {}, {})
        self.published = False

    def touch(self, *backends: str) -> None:
        """Look at these backends and their replicas at the next :meth:`publish`."""
        self._touched.update(backends)

    def publish(self, desired: Desired, observed: Observed, now: float) -> list[str]:
        """Publish the table if it changed. Returns the backends of replicas that were left out for the first time.

        Publishes nothing while an adopted replica has not reported: a table without it would stop its traffic.
        """
        if observed.replicas.some_adopted():
            return []
        ahead_s = wall_ahead_s()
        if self.epoch is None:
            self.epoch, self._ahead_s = datetime.now(timezone.utc).timestamp() - now, ahead_s
        elif abs(ahead_s - self._ahead_s) > CLOCK_STEP_S:  # a backend whose starts fail is published at each try
            self.epoch, self._ahead_s = self.epoch + ahead_s - self._ahead_s, ahead_s
        touched, self._touched = self._touched, set()
        if not self.published:
            touched.update(desired.backends, observed.replicas.backends())
        touched |= self._newly_counted(desired)
        change = self._change(desired, observed, touched)
        if not self.published or not change.is_empty:
            backends = with_changes(self.table.backends, change.backends)
            pins = with_changes(self.table.pins, change.pins)
            # The same dict as in ``desired``, so that what is not changed is seen at a glance.
            self.table = RoutingTable(change.version, desired.endpoints, backends, pins, bool(desired.came_up))
            self._pins = desired.pins
            self._peers.publish(self.table, change if self.published else None)
            self.published = True
        gone = [r for tag in touched for r in observed.of(tag) if r.phase is Phase.LEAVING and not r.left_at]
        # The confirmation limit of a drain counts from here, since routers could not know before.
        for replica in gone:
            replica.left_at, replica.since = self.table.version, now
        return [replica.backend for replica in gone]

    def _newly_counted(self, desired: Desired) -> set[str]:
        """The backends whose calls routers have to count from now on, or need not any more."""
        now_of = desired.backends, desired.endpoints
        if all(new is old for new, old in zip(now_of, self._counted_of, strict=True)):
            return set()
        before, self._counted, self._counted_of = self._counted, counted(desired), now_of
        return set(before ^ self._counted)

    def _change(self, desired: Desired, observed: Observed, touched: Iterable[str]) -> TableChange:
        """What differs from the newest table: in the touched backends, in endpoints and in pins."""
        backends: dict[str, BackendRoute | None] = {}
        for tag in touched:
            spec, there = desired.backends.get(tag), self.table.backends.get(tag)
            route = None
            if spec is not None:
                counts, epoch = tag in self._counted, self.epoch or 0.0
                route = route_of(spec, desired, observed, self._keys, counts=counts, epoch=epoch)
            if route != there:
                backends[tag] = route
        return TableChange(
            self.table.version,
            self.table.version + 1,
            changed(self.table.endpoints, desired.endpoints),
            backends,
            {name: None if pins is None else pack(pins) for name, pins in changed(self._pins, desired.pins).items()},
            bool(desired.came_up) and not self.table.came_up,
        )
