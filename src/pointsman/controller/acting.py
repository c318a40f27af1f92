"""Carries out the actions of a plan by the engine and by orders to replicas, and notes that in the observed state. What
must be stored first, a confirmation or a rollback, is up to the controller.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Protocol

from pointsman.controller import reconcile
from pointsman.controller.observed import Observed, start_reason
from pointsman.controller.orders import Launcher, ReplicaOrders
from pointsman.controller.replicas import Phase, Replica
from pointsman.controller.state import Desired
from pointsman.engine.base import Engine

log = logging.getLogger(__name__)


class Touch(Protocol):
    """Called with backends whose replicas have changed."""

    def __call__(self, *backends: str) -> None: ...


class ActionTaker:
    """Carries out actions.

    Args:
        engine: starts and kills processes.
        launcher: makes launch orders.
        orders: sends orders to replicas.
        desired: returns the current desired state.
        touch: called with the backend of each replica that is changed.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        launcher: Launcher,
        orders: ReplicaOrders,
        observed: Observed,
        desired: Callable[[], Desired],
        touch: Touch,
    ) -> None:
        self._engine = engine
        self._launcher = launcher
        self._orders = orders
        self._observed = observed
        self._desired = desired
        self._touch = touch
        self._loop = asyncio.get_running_loop()

    def do(self, action: reconcile.Action) -> None:
        """Carry out an action; one for a replica that has ended meanwhile, and any other, is ignored."""
        if isinstance(action, reconcile.Launch):
            self._launch(action)
            return
        if isinstance(action, (reconcile.Confirm, reconcile.Revert, reconcile.WakeAt, reconcile.Short)):
            return
        replica, now = self._observed.replicas.get(action.number), self._loop.time()
        if replica is None:
            return  # its process ended while an earlier action of this plan was committed
        self._touch(replica.backend)
        if isinstance(action, reconcile.Configure):
            self._orders.configure(replica, self._desired().backends[replica.backend], others=action.others)
        elif isinstance(action, reconcile.Leave):
            replica.patient = action.patient
            replica.enter(Phase.LEAVING, now)
        elif isinstance(action, reconcile.Drain):
            replica.enter(Phase.DRAINING, now)
            self._orders.drain(replica)
        elif isinstance(action, reconcile.Hurry):
            replica.patient, replica.since = False, now
            self._orders.drain(replica)
        else:
            log.info("%s is killed: %s", replica.tag, action.reason)
            self.kill(replica)

    def kill(self, replica: Replica) -> None:
        """Have the engine kill a replica's process."""
        replica.killed = True
        self._touch(replica.backend)
        self._engine.kill(replica.number)

    def _launch(self, action: reconcile.Launch) -> None:
        desired, observed = self._desired(), self._observed
        tags = {replica.tag for replica in observed.of(action.spec.tag)}
        reason = start_reason(action.spec, desired, observed)
        replica, order = self._launcher.order(action, now=self._loop.time(), tags=tags, reason=reason)
        observed.replicas[replica.number] = replica
        self._touch(replica.backend)
        self._engine.launch(order)


def time_of_day() -> str:
    """Now, ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
