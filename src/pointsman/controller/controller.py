"""The controller's shell: takes commands and events one at a time, asks the pure parts what to do, and does it.

command -> desired.apply -> store -> step:  plan -> actions -> publish -> plan again -> wake the waiters
event   -> observed ------------------^
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

from pointsman.controller import desired as wanted
from pointsman.controller import reconcile
from pointsman.controller.desired import Desired, Room
from pointsman.controller.launch import Launcher
from pointsman.controller.reconcile import Action, Failures, Observed, Phase, Replica, failed_launch, plan
from pointsman.controller.store import Store, StoreError
from pointsman.controller.waiters import Situation, Waiter
from pointsman.engine.base import Engine
from pointsman.model import BackendRoute, Capacity, Reason, ReplicaRef, RoutingTable
from pointsman.wire.frames import Kind
from pointsman.wire.messages import (
    Accepted,
    Await,
    Change,
    ConfigureHead,
    DeleteBackend,
    DrainHead,
    LaunchNote,
    ProcessEvent,
    Progress,
    Report,
    ShutdownOrder,
    pack,
    unpack,
)

log = logging.getLogger(__name__)

EPOCH_SHIFT = 32
MIN_DRAIN_S = 1.0


class Peers(Protocol):
    """The connections, as the controller uses them."""

    def tell_replica(self, number: int, kind: Kind, head: bytes, body: bytes = b"") -> None: ...

    def publish(self, table: RoutingTable) -> None: ...

    def ingress_routers(self) -> frozenset[int]: ...


class Controller:
    """The single writer.

    Args:
        engine: starts and stops processes.
        store: makes changes durable; used on a thread of its own, so that a slow disk holds nobody up.
        launcher: makes launch orders.
        peers: connections to replicas and routers.
        capacity: what the node has.
        desired: the state that the store held.
        replies: replies already given, by command id.
        epoch: which controller of the instance this is.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        store: Store,
        launcher: Launcher,
        peers: Peers,
        capacity: Capacity,
        desired: Desired,
        replies: dict[str, bytes],
        epoch: int,
    ) -> None:
        self._engine = engine
        self._store = store
        self._store_thread = ThreadPoolExecutor(1, thread_name_prefix="pointsman-store")
        self._launcher = launcher
        self._peers = peers
        self._replies = replies
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self._waiters: set[Waiter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._kicked = False
        self._noted_cpus = False
        self._wake: asyncio.TimerHandle | None = None
        self.desired = desired
        self.observed = Observed(capacity=capacity)
        self.table = RoutingTable(epoch << EPOCH_SHIFT, {}, {})
        self.published = False
        self.ingress_exits: list[str] = []

    # Commands

    async def change(self, command: Change, blob: bytes) -> bytes:
        """Carry out a command and return the packed :class:`Accepted`; a repeated one gets its first reply again.

        Raises:
            ValueError, InsufficientResourcesError: nothing has changed.
            StoreError: the change could not be made durable; nothing has changed.
        """
        async with self._turn:
            known = self._replies.get(command.id)
            if known is not None:
                return known
            new, note = wanted.apply(self.desired, command, self._room())
            note = note or self._note_on_cpus(new)
            reply = pack(Accepted(new.version, note))
            await self._commit(new, reply_to=command.id, reply=reply, blob=blob)
            self._replies[command.id] = reply
            self._forget_failures(command)
            if isinstance(command, DeleteBackend) and command.force:
                for replica in self.observed.of(command.tag):
                    self._do(reconcile.Kill(replica.number, "its backend was deleted by force"))
            log.info("version %d: %s %s", new.version, command.__struct_config__.tag, _subject(command))
        self.kick()
        return reply

    async def wait(self, command: Await, own_routers: frozenset[int], progress: Callable[[Progress], None]) -> None:
        """Return when a change is in effect.

        Raises:
            BackendStartError: it was taken back.
            TimeoutError: it took longer than the caller would wait.
        """
        waiter = Waiter(command, own_routers, progress)
        self._waiters.add(waiter)
        self.kick()
        try:
            await asyncio.wait_for(waiter.future, command.timeout_s)
        except asyncio.TimeoutError:
            raise TimeoutError(f"the change was not in effect everywhere after {command.timeout_s:g} s") from None
        finally:
            self._waiters.discard(waiter)

    async def code(self, digest: str) -> bytes:
        """A stored blob."""
        return bytes(await self._in_store(partial(self._store.blob, digest)))

    def shutdown(self) -> None:
        """End the instance for good."""
        drains = [spec.config.drain_timeout_s for spec in self.desired.backends.values()]
        self._engine.shutdown(ShutdownOrder(max([MIN_DRAIN_S, *drains]), forget=True))

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._in_store(self._store.close)
        self._store_thread.shutdown()

    # Events

    def process_event(self, event: ProcessEvent) -> None:
        """From the engine."""
        if event.event == "recovered":
            self._adopt(event)
        elif event.event == "started":
            replica = self.observed.replicas.get(event.number)
            if replica is not None:
                replica.pid = event.pid
        elif event.event == "exited":
            self._exited(event)
        elif event.event == "ingress_exited":
            self.ingress_exits.append(event.exit)
        self.kick()

    def replica_reported(self, report: Report, pickled: bytes) -> None:
        """From a replica."""
        replica = self.observed.replicas.get(report.number)
        if replica is None:
            log.warning("a replica numbered %d reported, and no such replica is known", report.number)
            return
        replica.adopted = False
        if report.state == "fresh":
            self._enter(replica, Phase.STARTING)
            self._spawn(self._assign(replica))
        elif report.state == "starting":
            self._enter(replica, Phase.STARTING)
        elif report.state == "ready":
            self._ready(replica, report)
        elif report.state == "drained":
            self._enter(replica, Phase.STOPPING)
            self._engine.stop(replica.number)
        elif report.state == "failed":
            self._failed(replica, report, pickled)
        self.kick()

    def router_confirmed(self, router: int, version: int) -> None:
        """A router uses this version of the table; 0 when it has just subscribed."""
        self.observed.confirmed[router] = version
        self.kick()

    def router_lost(self, router: int) -> None:
        self.observed.confirmed.pop(router, None)
        self.kick()

    def _adopt(self, event: ProcessEvent) -> None:
        for number, (pid, packed) in event.live.items():
            note = unpack(packed, LaunchNote)
            self.observed.replicas[number] = Replica(
                number=number,
                tag=note.tag,
                backend=note.backend,
                version=note.version,
                allocation=note.allocation,
                since=self._loop.time(),
                pid=pid,
                adopted=True,
            )
        if event.live:
            log.info("%d replicas live on from an earlier controller", len(event.live))

    def _ready(self, replica: Replica, report: Report) -> None:
        replica.config_version = report.config_version
        replica.told_version = max(replica.told_version, report.config_version)
        if replica.phase < Phase.READY:
            log.info("%s is ready (pid %d)", replica.tag, replica.pid)
            self._enter(replica, Phase.READY)
            failures = self.observed.failures.get(replica.backend)
            if failures is not None and failures.reason is Reason.CONSTRUCTOR_FAILED and not failures.rolled_back:
                failures.count = 0  # tries count in a row

    def _failed(self, replica: Replica, report: Report, pickled: bytes) -> None:
        log.warning("%s failed: %s: %s", replica.tag, report.error, report.text)
        failures = self._failures(replica)
        failures.reason = report.reason or Reason.CONSTRUCTOR_FAILED
        failures.error, failures.text = report.error, report.text
        failures.traceback, failures.pickled = report.traceback, pickled
        failed_launch(failures, self._loop.time())
        spec = self.desired.backends.get(replica.backend)
        may_go_back = spec is not None and spec.tag in self.desired.fallbacks and replica.phase is Phase.READY
        if not may_go_back:
            replica.killed = True
            self._engine.kill(replica.number)

    def _exited(self, event: ProcessEvent) -> None:
        replica = self.observed.replicas.pop(event.number, None)
        if replica is None:
            return
        if replica.killed or replica.phase is Phase.STOPPING:
            log.info("%s ended", replica.tag)
            return
        log.warning("%s died: %s", replica.tag, event.exit)
        spec = self.desired.backends.get(replica.backend)
        if spec is None or spec.version != replica.version:
            return  # the death of an old version says nothing about the new one
        failures = self._failures(replica)
        failures.reason, failures.error = Reason.REPLICA_DIED, ""
        failures.text = f"replica {replica.tag} died ({event.exit})"
        failures.traceback, failures.pickled = "", b""
        lived_s = self._loop.time() - replica.since if replica.phase is Phase.READY else 0.0
        failed_launch(failures, self._loop.time(), lived_s=lived_s)

    def _failures(self, replica: Replica) -> Failures:
        return self.observed.failures.setdefault(replica.backend, Failures())

    def _note_on_cpus(self, new: Desired) -> str:
        """Once per instance: a warning that soft CPUs are asked for beyond what the machine has."""
        specs = new.backends.values()
        asked = sum(spec.config.num_replicas * spec.resources.num_cpus for spec in specs)
        have = os.cpu_count() or 1
        if self._noted_cpus or self.observed.capacity.num_cpus is not None or asked <= have:
            return ""
        self._noted_cpus = True
        return f"replicas ask for {asked:g} CPUs and this machine has {have}: they share them (num_cpus=N is strict)"

    def _forget_failures(self, command: Change) -> None:
        """A new order for a backend is a new start."""
        tag = getattr(command, "tag", None) or getattr(command, "name", None)
        if tag is not None and not isinstance(command, DeleteBackend):
            failures = self.observed.failures.get(tag)
            if failures is not None:
                failures.count, failures.next_try, failures.rolled_back = 0, 0.0, 0

    # Steps

    def kick(self) -> None:
        """Plan again, soon."""
        if not self._kicked:
            self._kicked = True
            self._spawn(self._step())

    async def _step(self) -> None:
        async with self._turn:
            self._kicked = False
            if self._wake is not None:
                self._wake.cancel()
                self._wake = None
            busy = True
            while busy:
                busy = False
                for action in plan(self.desired, self.observed, self._loop.time()):
                    if isinstance(action, reconcile.WakeAt):
                        self._wake = self._loop.call_at(action.time, self.kick)
                    elif isinstance(action, (reconcile.Confirm, reconcile.Revert)):
                        busy = await self._conclude(action)
                    else:
                        self._do(action)
                        busy = True
                if busy and self._wake is not None:
                    self._wake.cancel()
            self._publish()
            self._check_waiters()

    async def _conclude(self, action: reconcile.Confirm | reconcile.Revert) -> bool:
        """Settle a backend's last change, for good or ill. False when the store refused: tried again later."""
        tag = action.backend
        failures = self.observed.failures.get(tag)
        try:
            if isinstance(action, reconcile.Confirm):
                await self._commit(wanted.confirm(self.desired, tag))
                if failures is not None:
                    self.observed.failures.pop(tag)
            else:
                assert failures is not None
                failed = self.desired.backends[tag].config_version
                await self._commit(wanted.revert(self.desired, tag))
                failures.rolled_back, failures.count, failures.next_try = failed, 0, 0.0
                log.warning("backend %r could not be brought up as version %d; going back", tag, failed)
        except StoreError as error:
            log.error("%s", error)
            self._wake = self._loop.call_later(1.0, self.kick)
            return False
        return True

    def _do(self, action: Action) -> None:
        now = self._loop.time()
        if isinstance(action, reconcile.Launch):
            tags = {replica.tag for replica in self.observed.replicas.values()}
            replica, order = self._launcher.order(action, now=now, tags=tags)
            self.observed.replicas[replica.number] = replica
            self._engine.launch(order)
            return
        if isinstance(action, (reconcile.Confirm, reconcile.Revert, reconcile.WakeAt)):
            return
        replica = self.observed.replicas[action.number]
        if isinstance(action, reconcile.Configure):
            self._configure(replica)
        elif isinstance(action, reconcile.Leave):
            self._enter(replica, Phase.LEAVING)
        elif isinstance(action, reconcile.Drain):
            self._enter(replica, Phase.DRAINING)
            self._peers.tell_replica(replica.number, Kind.DRAIN, pack(DrainHead(replica.drain_timeout_s)))
        elif isinstance(action, reconcile.Stop):
            self._enter(replica, Phase.STOPPING)
            self._engine.stop(replica.number)
        else:
            log.info("%s is killed: %s", replica.tag, action.reason)
            replica.killed = True
            self._engine.kill(replica.number)

    def _configure(self, replica: Replica) -> None:
        spec = self.desired.backends[replica.backend]
        replica.told_version = spec.config_version
        head = ConfigureHead(spec.config.for_replica(), spec.config_version, spec.config.drain_timeout_s)
        self._peers.tell_replica(replica.number, Kind.CONFIGURE, pack(head))

    async def _assign(self, replica: Replica) -> None:
        spec = self.desired.backends.get(replica.backend)
        if spec is None or spec.version != replica.version:
            return  # not wanted any more; the plan kills it
        try:
            blob = await self.code(spec.code)
        except StoreError as error:
            log.error("%s", error)
            self._failed(replica, Report(replica.number, "failed", 0, None, "StoreError", str(error)), b"")
            self.kick()
            return
        replica.told_version = spec.config_version
        assignment = self._launcher.assignment(spec, replica.tag)
        self._peers.tell_replica(replica.number, Kind.CONFIGURE, pack(assignment), blob)

    def _enter(self, replica: Replica, phase: Phase) -> None:
        if phase > replica.phase:
            replica.phase, replica.since = phase, self._loop.time()

    def _publish(self) -> None:
        """Send the routing table if it has changed. Waits until adopted replicas have reported: a table without them
        would stop traffic that flows."""
        if any(replica.adopted for replica in self.observed.replicas.values()):
            return
        backends = {tag: self._route(tag) for tag in self.desired.backends}
        table = RoutingTable(self.table.version + 1, self.desired.endpoints, backends)
        if not self.published or (table.endpoints, table.backends) != (
            self.table.endpoints,
            self.table.backends,
        ):
            self.table, self.published = table, True
            self._peers.publish(table)
        for replica in self.observed.replicas.values():
            if replica.phase is Phase.LEAVING and not replica.left_at:
                replica.left_at = self.table.version
                self.kick()

    def _route(self, tag: str) -> BackendRoute:
        config = self.desired.backends[tag].config
        refs = tuple(
            ReplicaRef(r.number, r.tag, self._launcher.address(r.number), self._launcher.data_key(r.number))
            for r in self.observed.of(tag)
            if r.phase is Phase.READY and not r.killed
        )
        return BackendRoute(tag, refs, config.query_limit, config.max_queued_queries)

    def _check_waiters(self) -> None:
        situation = Situation(
            desired=self.desired,
            observed=self.observed,
            table_version=self.table.version if self.published else 0,
            ingresses=self._peers.ingress_routers(),
        )
        for waiter in self._waiters:
            waiter.check(situation)

    def _room(self) -> Room:
        held: dict[str, list[Any]] = {}
        for replica in self.observed.replicas.values():
            held.setdefault(replica.backend, []).append(replica.allocation)
        return Room(self.observed.capacity, {tag: tuple(allocations) for tag, allocations in held.items()})

    async def _commit(self, new: Desired, *, reply_to: str = "", reply: bytes = b"", blob: bytes = b"") -> None:
        commit = partial(self._store.commit, new, reply_to=reply_to, reply=reply, blob=blob)
        await self._in_store(commit)
        self.desired = new

    async def _in_store(self, function: Callable[[], Any]) -> Any:
        return await self._loop.run_in_executor(self._store_thread, function)

    def _spawn(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # A bug of ours: better a fresh controller, which adopts everything, than one that has lost its place.
            log.critical("the controller failed and will be started again", exc_info=task.exception())
            raise SystemExit(1)


def _subject(command: Change) -> str:
    return repr(getattr(command, "tag", None) or getattr(command, "name", ""))
