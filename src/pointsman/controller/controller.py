"""The controller's shell: handles commands and events one at a time and carries out what the pure modules decide.

command -> desired.apply -> store -> step:  plan what is due -> actions -> plan again -> publish -> wake the waiters
event   -> observed ------------------^
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

from pointsman.arguments import DEFAULT_REQUEST_TIMEOUT_S
from pointsman.controller import desired as wanted
from pointsman.controller import reconcile, transitions
from pointsman.controller.acting import ActionTaker, time_of_day
from pointsman.controller.agenda import Agenda
from pointsman.controller.concluding import AGAIN_S, Conclusions
from pointsman.controller.health import Circumstances, HealthWatch
from pointsman.controller.history import subject_of
from pointsman.controller.observed import (
    NextStep,
    Observed,
    adopt,
    forget_failures,
    free_capacity_of,
    keep_drain_limits,
    record_commit,
    record_confirmed,
    record_exit,
    record_report,
    record_unhealthy,
)
from pointsman.controller.orders import Launcher, Peers, ReplicaOrders
from pointsman.controller.publisher import Publisher
from pointsman.controller.reconcile import plan_for
from pointsman.controller.replicas import Replica
from pointsman.controller.scaling.room import with_idle
from pointsman.controller.state import DEFAULT_MAX, Desired
from pointsman.controller.store import KEPT_REPLIES, StoreError
from pointsman.controller.store.base import DurableState, DurableStore
from pointsman.controller.waiters import Situation, Waiters, Waiting
from pointsman.engine.base import Engine
from pointsman.engine.orders import ProcessEvent, ShutdownOrder
from pointsman.model import Capacity, RoutingTable
from pointsman.wire.commands import (
    Accepted,
    Apply,
    Await,
    BackendChange,
    Change,
    DeleteBackend,
    Ending,
    Progress,
)
from pointsman.wire.frames import Kind
from pointsman.wire.messages import Report, pack
from pointsman.wire.started import has_started_calls
from pointsman.wire.tables import changed

log = logging.getLogger(__name__)

#: Table versions begin at the epoch times 2**32, so that those of a new controller are always newer.
EPOCH_SHIFT = 32
MIN_DRAIN_S = 1.0
#: Added to wake-ups: loops run timers up to a clock tick early, and a plan made early asks to be woken once more.
CLOCK_SLACK_S = 1e-6


class Controller:
    """The single writer of desired state.

    Args:
        engine: starts and stops processes.
        store: makes changes durable; called on its own thread, so that a slow disk does not block the loop.
        launcher: makes launch orders.
        peers: connections to replicas and routers.
        capacity: resources of the node, or of each node.
        desired: the state read from the store.
        replies: replies already given, by command id.
        epoch: number of this controller in the instance's life, from 1.
        request_timeout_s: default limit of a call.
        default_max: the largest number of an autoscaled backend's replicas where its configuration gives none.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        store: DurableStore,
        launcher: Launcher,
        peers: Peers,
        capacity: Capacity,
        desired: Desired,
        replies: dict[str, bytes],
        epoch: int,
        request_timeout_s: float = DEFAULT_REQUEST_TIMEOUT_S,
        drain_delay_s: float = 0.0,
        default_max: int = DEFAULT_MAX,
    ) -> None:
        self._engine = engine
        self._durable = DurableState(store, self._on_commit)
        self._orders = ReplicaOrders(peers, self._durable)
        self._peers = peers
        self._replies = replies
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._waiters = Waiters()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changes: set[asyncio.Task[bytes]] = set()
        self._kicked = self.closing = False  # closing: what still arrives is for the next controller
        self._warned_about_cpus = False
        self._wake: asyncio.TimerHandle | None = None
        self.desired = desired
        self.observed = Observed(capacity=capacity, default_max=default_max)
        self._actions = ActionTaker(
            engine=engine,
            launcher=launcher,
            orders=self._orders,
            observed=self.observed,
            desired=lambda: self.desired,
            touch=self._touch,
        )
        self._conclusions = Conclusions(
            durable=self._durable,
            observed=self.observed,
            desired=lambda: self.desired,
            again=lambda tag: self._agenda.touch_at(tag, self._loop.time() + AGAIN_S),
            touch=self._touch,
        )
        self._request_timeout_s = request_timeout_s
        self._drain_delay_s = drain_delay_s
        self.health = HealthWatch(
            self.observed,
            desired=lambda: self.desired,
            peers=peers,
            circumstances=self._circumstances,
            on_unhealthy=self._replica_is_unhealthy,
        )
        self._agenda = Agenda(self.observed.short)
        self._agenda.touch(*desired.backends)
        self._publisher = Publisher(peers, launcher, version=epoch << EPOCH_SHIFT)
        self.ingress_exits: list[str] = []
        # Identities of ingresses that live and have not subscribed to this controller yet.
        self.unsubscribed: set[str] = set()

    @property
    def table(self) -> RoutingTable:
        """The newest routing table."""
        return self._publisher.table

    @property
    def published(self) -> bool:
        """True once a table has been published."""
        return self._publisher.published

    # Commands

    async def change(self, command: Change, blob: bytes, if_version: int | None = None) -> bytes:
        """Carry out a command and return the packed :class:`Accepted`. A repeated command gets its first reply again.

        Raises:
            ValueError, InsufficientResourcesError, StateChangedError: nothing has changed.
            StoreError: the change could not be made durable; nothing has changed.
        """
        # The caller may disconnect and repeat the command: what has begun is completed, and its reply kept for that.
        task = self._loop.create_task(self._change(command, blob, if_version))
        self._changes.add(task)
        task.add_done_callback(self._change_ended)
        return await asyncio.shield(task)

    async def _change(self, command: Change, blob: bytes, if_version: int | None) -> bytes:
        # The lock covers check, commit and reply: of two copies of one command only the first is carried out.
        async with self._turn:
            if (known := self._replies.get(command.id)) is not None:
                return known
            grows = isinstance(command, (BackendChange, Apply))
            free = free_capacity_of(self.observed, held=grows)
            if grows:
                free = with_idle(free, self.desired, self.observed, self._loop.time(), time_of_day())
            new, warning = transitions.carry_out(self.desired, command, free, time_of_day(), if_version)
            if grows and not warning and not self._warned_about_cpus:
                warning = wanted.cpu_warning(new, self.observed.capacity, os.cpu_count() or 1)
                self._warned_about_cpus = bool(warning)
            reply = pack(Accepted(wanted.version_of(self.desired, new, command), warning))
            codes = [*command.codes.values()] if isinstance(command, Apply) else [blob] if blob else []
            await self._durable.commit(new, reply_to=command.id, reply=reply, codes=codes)
            self._replies[command.id] = reply
            if len(self._replies) > KEPT_REPLIES:
                del self._replies[next(iter(self._replies))]  # the oldest
            self._touch(*forget_failures(self.observed, command))
            if isinstance(command, DeleteBackend) and command.force:
                for replica in self.observed.of(command.tag):
                    self._actions.do(reconcile.Kill(replica.number, "its backend was deleted by force"))
            log.info("version %d: %s %s", new.version, command.__struct_config__.tag, subject_of(command))
        self.kick()
        return reply

    async def update(self, decide: Callable[[Desired, str], Desired]) -> None:
        """Make durable what ``decide`` makes of the state, given the time of day. What nobody has to know of, such as
        what was counted of a rollout, keeps the version.

        Raises:
            StoreError: it could not be made durable; nothing has changed.
        """
        async with self._turn:
            new = decide(self.desired, time_of_day())
            if new is not self.desired:
                await (self._durable.commit(new) if new.version > self.desired.version else self._durable.note(new))

    def _change_ended(self, task: asyncio.Task[bytes]) -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: the caller may be gone, and asyncio would log it

    async def wait(self, command: Await, own_routers: frozenset[int], progress: Callable[[Progress], None]) -> None:
        """Return when a change is in effect; raises as :meth:`Waiters.wait`."""
        self.kick()
        await self._waiters.wait(command, own_routers, progress)

    async def wait_for(self, waiter: Waiting) -> Any:
        """What a waiter's future is resolved with; raises as that says."""
        self.kick()
        return await self._waiters.wait_for(waiter, None)

    def shutdown(self, drain_s: float | None = None, *, forget: bool) -> Ending:
        """End the instance; with ``forget`` also delete its stored state. Returns the limits.

        Running requests may finish within ``drain_s`` seconds. By default that is the longest drain limit of the
        backends, and requests are accepted for a while before.
        """
        limits = [MIN_DRAIN_S, *(spec.config.drain_timeout_s for spec in self.desired.backends.values())]
        ending = Ending(max(limits), self._drain_delay_s) if drain_s is None else Ending(drain_s)
        self._peers.send_to_ingresses(Kind.STOP, pack(ending))  # arrives before a signal, which has no limit
        self._engine.shutdown(ShutdownOrder(ending.drain_s, forget, ending.delay_s))
        return ending

    async def aclose(self) -> None:
        self.closing = True
        self.health.end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._changes, return_exceptions=True)
        await self._durable.aclose()

    # Events

    def process_event(self, event: ProcessEvent) -> None:
        """Handle an event of the engine."""
        if event.event == "recovered":
            adopt(self.observed, event.live, self._loop.time())
            self.unsubscribed.update(event.ingresses)
            self._touch(*self.observed.replicas.backends())
            keep_drain_limits(self.observed, self.desired, self.observed.replicas.backends())
        elif event.event == "started":
            replica = self.observed.replicas.get(event.number)
            if replica is not None:
                replica.pid = event.pid
        elif event.event == "exited":
            replica = self.observed.replicas.get(event.number)
            record_exit(self.observed, self.desired, event, self._loop.time())
            if replica is not None:
                self._touch(replica.backend)
            self._agenda.resources_changed()
        elif event.event in ("ingress_exited", "ingress_gone"):
            self.unsubscribed.difference_update(event.ingresses)
            if event.event == "ingress_exited":
                self.ingress_exits.append(event.exit)
        elif event.event == "asked_to_end":
            self.shutdown(forget=False)
        elif event.event == "capacity" and event.capacity is not None:
            self.observed.capacity = event.capacity
            self._agenda.resources_changed()
        self.kick()

    def replica_reported(self, report: Report, pickled: bytes, *, introduces: bool = False) -> None:
        """Handle a report; ``introduces``: it is the first on a connection, so orders sent before may be lost."""
        now = self._loop.time()
        step = record_report(self.observed, self.desired, report, pickled, now, introduces=introduces)
        replica = self.observed.replicas.get(report.number)
        if replica is not None:
            self._touch(replica.backend)
            if step is NextStep.ASSIGN:
                self._spawn(self._assign(replica))
            elif step is NextStep.WATCH:
                self.health.begin()
            elif step is NextStep.DRAIN:
                self._orders.drain(replica)
            elif step is NextStep.STOP:
                self._orders.stop(replica)
            elif step is NextStep.KILL:
                self._actions.kill(replica)
        self.kick()

    def _circumstances(self, replica: Replica) -> Circumstances:
        timeouts = [e.request_timeout_s for e in self.desired.endpoints.values() if e.request_timeout_s is not None]
        return Circumstances(
            stopped=self._engine.is_stopped(replica.pid),
            has_started=has_started_calls(replica.address),
            declared_s=max([self._request_timeout_s, *timeouts]),
        )

    def _replica_is_unhealthy(self, replica: Replica) -> None:
        record_unhealthy(self.observed, self.desired, replica, self._loop.time())
        self._touch(replica.backend)
        self.kick()

    def router_confirmed(self, router: int, version: int, *, connected: bool = True) -> None:
        """A router uses this version of the table, and is ``connected`` to its replicas or is not yet; 0 if it has
        just subscribed."""
        record_confirmed(self.observed, router, version, connected=connected)
        self._agenda.routers_changed()
        self.kick()

    def ingress_subscribed(self, identity: str) -> None:
        """An ingress has subscribed: from now on changes wait for its confirmations."""
        self.unsubscribed.discard(identity)

    def router_lost(self, router: int) -> None:
        self.observed.confirmed.pop(router, None)
        self.observed.connected.pop(router, None)
        self._agenda.routers_changed()
        self.kick()

    # Steps

    def kick(self) -> None:
        """Plan again on one of the next turns of the loop. Several calls before that make one plan."""
        if not self._kicked and not self.closing:
            self._kicked = True
            self._spawn(self._step())

    async def _step(self) -> None:
        async with self._turn:
            # Reset first: an event that arrives during an await below must cause another plan.
            self._kicked = False
            if self._wake is not None:
                self._wake.cancel()
            # An action changes what is observed, so its backend is planned again until that gives nothing to do.
            while due := self._agenda.take(self.desired, self._loop.time()):
                actions = plan_for(due, self.desired, self.observed, self._loop.time())
                self._agenda.note(actions)
                for action in actions:
                    if not isinstance(action, (reconcile.Confirm, reconcile.Revert)):
                        self._actions.do(action)
                    elif await self._conclusions.conclude(action, time_of_day()):
                        self._touch(*due)
                        break
            self._publish()
            if self._agenda.next_time is not None:
                self._wake = self._loop.call_at(self._agenda.next_time + CLOCK_SLACK_S, self.kick)

    async def _assign(self, replica: Replica) -> None:
        spec = self.desired.backends.get(replica.backend)
        if spec is None or spec.version != replica.version:
            return  # its version is not wanted any more, so the next plan kills it
        try:
            await self._orders.assign(replica, spec)
        except StoreError as error:
            log.error("%s", error)
            self.replica_reported(Report(replica.number, "failed", 0, None, "StoreError", str(error)), b"")

    def _publish(self) -> None:
        if gone := self._publisher.publish(self.desired, self.observed, self._loop.time()):
            self._agenda.touch(*gone)
            self.kick()
        situation = Situation(
            desired=self.desired,
            observed=self.observed,
            table_version=self.table.version if self.published else 0,
            ingresses=self._peers.ingress_routers(),
            unsubscribed=frozenset(self.unsubscribed),
        )
        self._waiters.check(situation)

    def _on_commit(self, new: Desired) -> None:
        old, self.desired = self.desired, new
        backends = changed(old.backends, new.backends)
        self._touch(*backends, *changed(old.fallbacks, new.fallbacks), *changed(old.scales, new.scales))
        record_commit(self.observed, old, new, backends, self._loop.time())
        self.kick()

    def _touch(self, *backends: str) -> None:
        """Plan these backends again, and look at them for the routing table."""
        self._agenda.touch(*backends)
        self._publisher.touch(*backends)

    def _spawn(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # A bug: a new controller, which adopts all replicas, is safer than one whose state may be inconsistent.
            log.critical("the controller failed and will be started again", exc_info=task.exception())
            raise SystemExit(1)
