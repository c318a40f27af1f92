"""The controller's side of the Ray engine. Processes are actors, nodes join and leave, each node can have ingresses.

Does what the supervisor of the local engine does: starts, watches, restarts and ends processes. The cluster's key-value
store has a record of each replica, so that a new controller finds every replica that lives.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Collection, Sequence

import ray

# Private: Ray has no public function for resources per node, and its public totals lack those of placement groups.
from ray._private.state import available_resources_per_node, total_resources_per_node
from ray.autoscaler.sdk import request_resources

from pointsman.engine.base import EventSink
from pointsman.engine.orders import LaunchOrder, ProcessEvent, ShutdownOrder
from pointsman.engine.process import is_stopped
from pointsman.engine.ray.actors import ActorExit, Actors, ActorSpec
from pointsman.engine.ray.child import ChildHost
from pointsman.engine.ray.cluster import KeyValueError, KeyValues
from pointsman.engine.ray.consoles import Consoles
from pointsman.engine.ray.ending import Connections, end_in_order
from pointsman.engine.ray.folder import INGRESS_PREFIX, replica_name
from pointsman.engine.ray.hosts import HostArgs, Introduction, ProcessHost
from pointsman.engine.ray.nodes import Amounts, alive_nodes, capacity_of, labels_of, requested, used_by_others
from pointsman.engine.ray.options import group_strategy
from pointsman.engine.ray.supervised import Exporters, Ingresses
from pointsman.exceptions import ServeException
from pointsman.model import CALLER, Allocation, Capacity, Environment, Resources
from pointsman.telemetry.counted import Counted
from pointsman.telemetry.pairs import PairCounts, Wanted
from pointsman.telemetry.reports import Reading
from pointsman.wire.address import node_here
from pointsman.wire.handover import ClusterHandover
from pointsman.wire.messages import Message, pack, unpack

log = logging.getLogger("pointsman.controller")

#: How often the nodes and their free resources are read.
LOOK_PERIOD_S = 1.0
#: How long Ray may take to show the resources of an exited actor as free.
SETTLE_S = 2.0
#: Ray reports the exit of an actor at once if its node lives. If an actor disconnects, does not reconnect in this time
#: and Ray reports nothing, its node is lost, unless other actors there are connected.
SILENT_S = 1.0
#: How long after an order to kill it an actor is treated as exited, whether Ray reports it or not.
KILL_S = 2.0
#: How long nothing is placed on a node that seems to be lost while Ray lists it as alive.
SUSPECT_S = 30.0
#: How long after a node has joined or left nodes are requested again, if replicas find no room still.
AGAIN_S = 5.0
#: Prefix of the keys of replica records.
RECORDS = "replica/"


class ReplicaRecord(Message, frozen=True):
    """What the engine keeps of a replica: the controller's launch metadata, and what the engine itself needs."""

    pid: int
    metadata: bytes
    allocation: Allocation


class RayEngine:
    """An :class:`~pointsman.engine.base.Engine` whose processes are actors.

    Args:
        events: called with every event, on the loop.
        peers: the controller's connections.
        given: start arguments of this controller.
        on_end: called when all processes but this one have exited, with whether to delete the stored state.
    """

    def __init__(
        self, events: EventSink, peers: Connections, given: ClusterHandover, *, on_end: Callable[[bool], object]
    ) -> None:
        self._events = events
        self._peers = peers
        self._given = given
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._kv = KeyValues(given.namespace)
        self._actors = Actors(given.namespace, began=self._began, ended=self._ended)
        self._ingresses = Ingresses(given, self._actors)
        self._exporters = Exporters(given, self._actors, node_here())
        self._consoles = Consoles(given, self._actors)
        self._records: dict[int, ReplicaRecord] = {}
        # The resources of each node, and what other users of the cluster hold of them.
        self._seen: tuple[Amounts, Amounts] = {}, {}
        self._labels: dict[str, dict[str, str]] = {}
        self._capacity = Capacity(nodes={})
        self._suspects: dict[str, float] = {}
        # Replicas that find no room, by who has requested nodes for them; and what was requested last.
        self._needs: dict[str, tuple[tuple[Resources, int], ...]] = {}
        self._requested: list[dict[str, int]] = []
        # Allocations of exited replicas, each with the time until which Ray may still show them as taken.
        self._returned: list[tuple[float, Allocation]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        # During a shutdown its drain limit, and the task that carries it out.
        self._ending: tuple[float, asyncio.Task[None]] | None = None
        self._also_forget = False

    @property
    def nodes(self) -> RayEngine:
        """Itself."""
        return self

    @property
    def ingresses_wanted(self) -> int:
        """How many ingress processes there should be on all nodes."""
        return len(self._ingresses.wanted)

    async def start(self) -> None:
        records = await self._actors.run(self._read_records)
        names = await self._actors.run(lambda: _living(self._given.namespace))
        for number, record in records.items():
            if replica_name(number) in names:
                self._records[number] = record
                self._actors.adopt(replica_name(number))
            else:
                self._forget(number)
        if records:  # the controller before this one may have requested nodes, which Ray goes on doing
            self._requested = [{}]
        live = {number: (record.pid, record.metadata) for number, record in self._records.items()}
        ingresses = tuple(name for name in names if name.startswith(INGRESS_PREFIX))
        self._events(ProcessEvent("recovered", live=live, ingresses=ingresses))
        self._ingresses.adopt(names)
        self._exporters.adopt(names)
        self._consoles.adopt(names)
        await self.refresh()
        self._spawn(self._watch_nodes())

    # Orders

    def launch(self, order: LaunchOrder) -> None:
        if self._ending:
            return
        self._records[order.number] = record = ReplicaRecord(0, order.metadata, order.allocation)
        resources = order.allocation.resources
        self._write(order.number, record)
        env = {**order.env, **self._given.environ, **order.own_env}
        if not resources.num_gpus:
            env["CUDA_VISIBLE_DEVICES"] = ""  # Ray sets it only for actors that have GPUs
        options = {
            "scheduling_strategy": group_strategy(resources.placement),
            "num_cpus": resources.num_cpus,
            "num_gpus": resources.num_gpus,
            "memory": int(resources.memory) or None,
            "resources": resources.custom or None,
            # Ray sets these before the interpreter starts. Without a runtime_env it can use an idle worker process.
            "runtime_env": {"env_vars": order.own_env} if order.own_env else None,
        }
        with_metrics, environment = self._given.settings.metrics is not None, _other_environment(order)
        self._actors.start(
            ActorSpec(
                host=ProcessHost if environment is None else ChildHost,
                name=replica_name(order.number),
                method="be_replica",
                args=HostArgs(order.label, order.handover, env, with_metrics, environment),
                options={key: value for key, value in options.items() if value is not None},
                node=order.allocation.node,
            )
        )

    def kill(self, number: int) -> None:
        name = replica_name(number)
        self._actors.kill(name)
        self._loop.call_later(KILL_S, self._actors.give_up, name, ActorExit("killed"))

    def is_stopped(self, pid: int) -> bool:
        here = [
            record for record in self._records.values() if record.pid == pid and record.allocation.node == node_here()
        ]
        return bool(here) and is_stopped(pid)

    def shutdown(self, order: ShutdownOrder) -> None:
        self._also_forget = self._also_forget or order.forget
        if self._ending is not None:
            drain_s, task = self._ending
            if order.drain_s >= drain_s:
                return
            task.cancel()
        self._ending = order.drain_s, self._spawn(self._shut_down(order.drain_s, order.delay_s))

    async def aclose(self) -> None:
        pass  # the engine has no connection of its own

    @property
    def metrics_addresses(self) -> dict[str, str]:
        return self._exporters.addresses

    async def read_metrics(self) -> list[Reading]:
        return await self._exporters.read()

    async def read_pairs(self, wanted: Wanted) -> list[PairCounts]:
        return await self._exporters.read_pairs(wanted)

    async def read_examples(self, name: str, codes: Collection[str], limit: int) -> list[bytes]:
        return await self._exporters.read_examples(name, codes, limit)

    async def read_tallies(self, metrics: Collection[str]) -> dict[str, Counted]:
        return await self._exporters.read_tallies(metrics)

    def disconnected(self, number: int) -> None:
        """A replica's connection was lost: check it after ``SILENT_S``, unless Ray reports its exit first."""
        self._loop.call_later(SILENT_S, self._check_on, number)

    def request_nodes(self, who: str, needs: Sequence[tuple[Resources, int]]) -> None:
        if needs:
            self._needs[who] = tuple(needs)
        else:
            self._needs.pop(who, None)
        self._request()

    def _request(self) -> None:
        """Have the autoscaler know what is needed, if that has changed."""
        bundles = requested(self._seen[0], (need for needs in self._needs.values() for need in needs))
        if bundles != self._requested:
            self._requested = bundles
            self._actors.run(lambda: request_resources(bundles=bundles)).add_done_callback(_log_error)

    async def refresh(self) -> None:
        """Read what is free now. If anything changed, the ``capacity`` event comes before this returns."""
        totals, available, self._labels = await self._actors.run(_look)
        self._returned = [(until, share) for until, share in self._returned if until > self._loop.time()]
        held = [record.allocation for record in self._records.values()]
        returned = [share for _, share in self._returned]
        if totals.keys() != self._seen[0].keys():
            # What nodes there are is a part of a request. Not at once: replicas are launched on a new node first, and a
            # request for them would get another one.
            self._loop.call_later(AGAIN_S, self._request)
        self._seen = totals, used_by_others(totals, available, held, returned, self._seen[1])
        self._report_capacity()

    def _report_capacity(self) -> None:
        totals, others = self._seen
        now = self._loop.time()
        self._suspects = {node: until for node, until in self._suspects.items() if until > now}
        usable = {node: total for node, total in totals.items() if node not in self._suspects}
        self._ingresses.keep_up(usable)
        self._consoles.keep_up(usable)
        self._exporters.keep_up(usable, {*self._ingresses.homes, *(n.allocation.node for n in self._records.values())})
        capacity = capacity_of(usable, others, self._labels)
        if capacity != self._capacity:
            self._capacity = capacity
            self._events(ProcessEvent("capacity", capacity=capacity))

    # What comes back

    def _began(self, name: str, who: Introduction) -> None:
        if who.metrics:
            self._exporters.serves(who)
        for number, record in self._records.items():
            if replica_name(number) == name:
                allocation = Allocation(record.allocation.resources, record.allocation.gpus, who.node)
                self._records[number] = ReplicaRecord(who.pid, record.metadata, allocation)
                self._write(number, self._records[number])
                self._events(ProcessEvent("started", number, who.pid))
                return

    def _ended(self, name: str, ending: ActorExit) -> None:
        if ending.node_died:
            self._suspect(self._node_of(name))
        if self._exporters.ended(name, ending, restart=self._ending is None):
            if not self._ending:
                log.warning("what serves the metrics of a node has ended, and is started again: %s", ending.text)
            return
        if self._consoles.ended(name, ending, restart=self._ending is None):
            if not self._ending:
                log.warning("the console has ended, and is started again: %s", ending.text)
            return
        if self._ingresses.ended(name, ending, restart=self._ending is None):
            self._events(ProcessEvent("ingress_exited", exit=ending.text, ingresses=(name,)))
            return
        if name.startswith(INGRESS_PREFIX):
            self._events(ProcessEvent("ingress_gone", ingresses=(name,)))
            return
        for number in [number for number in self._records if replica_name(number) == name]:
            record = self._records.pop(number)
            self._returned.append((self._loop.time() + SETTLE_S, record.allocation))
            self._forget(number)
            if not self._ending:  # during a shutdown exits are expected
                self._events(ProcessEvent("exited", number, record.pid, ending.text, blameless=ending.node_died))

    def _check_on(self, number: int) -> None:
        record = self._records.get(number)
        if record is None or self._ending or self._peers.is_connected(number):
            return
        # Ray takes long to notice a lost node, but reports the exit of a process on a live one at once. So if no other
        # replica of that node is connected either, all of them are treated as lost with it.
        node = record.allocation.node
        there = [other for other, known in self._records.items() if known.allocation.node == node]
        if node == node_here() or any(self._peers.is_connected(other) for other in there):
            self._actors.give_up(replica_name(number), ActorExit("it hung up, and Ray does not say why"))
            return
        log.warning("node %s seems to be lost: a replica there has hung up, and Ray does not say why", node)
        self._suspect(node)
        for other in there:
            self._actors.give_up(replica_name(other), ActorExit("its node seems to be lost", node_died=True))

    def _suspect(self, node: str) -> None:
        """Place nothing on a node that is lost or seems to be: Ray may list it as alive for a while."""
        if node:
            self._suspects[node] = self._loop.time() + SUSPECT_S
            self._report_capacity()  # before anything else is planned, so that nothing is placed there again

    def _node_of(self, name: str) -> str:
        nodes = [record.allocation.node for number, record in self._records.items() if replica_name(number) == name]
        return nodes[0] if nodes else self._exporters.node_of(name) or self._ingresses.node_of(name)

    async def _watch_nodes(self) -> None:
        while not self._ending:
            await asyncio.sleep(LOOK_PERIOD_S)
            try:
                await self.refresh()
            except ServeException as error:
                log.warning("%s", error)

    async def _shut_down(self, drain_s: float, delay_s: float) -> None:
        await end_in_order(self._actors, self._peers, list(self._records), drain_s=drain_s, delay_s=delay_s)
        self._needs.clear()
        self._request()
        try:  # the cluster keeps the state only while the instance runs; ``state_dir`` keeps it longer
            await self._actors.run(self._kv.clear)
        except KeyValueError as error:
            log.error("what was stored could not be removed: %s", error)
        self._on_end(self._also_forget)

    # Records

    def _write(self, number: int, record: ReplicaRecord) -> None:
        self._actors.run(lambda: self._kv.put(f"{RECORDS}{number}", pack(record))).add_done_callback(_log_error)

    def _forget(self, number: int) -> None:
        self._actors.run(lambda: self._kv.delete(f"{RECORDS}{number}")).add_done_callback(_log_error)

    def _read_records(self) -> dict[int, ReplicaRecord]:
        records = {}
        for key in self._kv.keys(RECORDS):
            value = self._kv.get(key)
            if value is not None:
                records[int(key.removeprefix(RECORDS))] = unpack(value, ReplicaRecord)
        return records

    def _spawn(self, coroutine: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(coroutine)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _other_environment(order: LaunchOrder) -> Environment | None:
    """The Python environment of a replica; None if it is that of the cluster, in which this process runs."""
    environment = order.environment
    if environment is None or (environment.kind == CALLER and environment.name == sys.prefix):
        return None
    return environment


def _look() -> tuple[Amounts, Amounts, dict[str, dict[str, str]]]:
    try:
        nodes, full, available = ray.nodes(), total_resources_per_node(), available_resources_per_node()
    except Exception as error:  # noqa: BLE001 - what Ray raises while its head is away has no common base
        raise ServeException(f"the cluster does not say what its nodes have: {error}") from None
    # Resources of placement groups are in the second view only, which shows new nodes a little later than the first.
    totals = {node: dict(full.get(node) or total) for node, total in alive_nodes(nodes).items()}
    return totals, available, labels_of(nodes)


def _living(namespace: str) -> Collection[str]:
    actors = ray.util.list_named_actors(all_namespaces=True)
    return {actor["name"] for actor in actors if actor["namespace"] == namespace}


def _log_error(future: asyncio.Future[None]) -> None:
    if not future.cancelled() and future.exception() is not None:
        log.warning("the cluster did not take an order: %s", future.exception())
