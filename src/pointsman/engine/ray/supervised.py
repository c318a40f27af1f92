"""Actors that must run as long as the instance: ingresses and exporters of metrics. They are started, watched, and
restarted with backoff.

Ingresses run on the node of ``start``, or on every node. An exporter runs on each node that runs a process of the
instance, or ran one in the last five minutes, which is how long counts of exited replicas keep their labels. It is a
dedicated actor: it handles no requests, and user code cannot block it. On its own node the controller serves the
metrics (decision 0036).
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping

from pointsman.engine.process import pack_handover
from pointsman.engine.ray.actors import ActorExit, Actors, ActorSpec
from pointsman.engine.ray.folder import (
    INGRESS_PREFIX,
    METRICS_PREFIX,
    control_path_of,
    ingress_name,
    metrics_name,
)
from pointsman.engine.ray.hosts import HostArgs, Introduction, MetricsHost, ProcessHost
from pointsman.limits import MAX_MESSAGE
from pointsman.policy.backoff import Backoff, Restarts
from pointsman.telemetry.collector import RETIRE_AFTER_S
from pointsman.telemetry.counted import Counted
from pointsman.telemetry.pairs import PackedCounts, PairCounts, Wanted, as_counts
from pointsman.telemetry.reports import Reading
from pointsman.wire.handover import ClusterHandover, MetricsHandover
from pointsman.wire.messages import unpack

BACKOFF = Backoff(first_s=0.1, last_s=10.0)
#: An actor that lived this long is restarted without delay.
STEADY_S = 5.0


class Supervised(ABC):
    """The actors of one kind.

    Args:
        actors: creates and watches them.
        prefix: of their names, and of no others.
        introduce: whether to request the introduction of actors that an earlier controller has created.
    """

    def __init__(self, actors: Actors, prefix: str, *, introduce: bool = False) -> None:
        self._actors = actors
        self._introduce = introduce
        self._prefix = prefix
        self._loop = asyncio.get_running_loop()
        self._nodes: dict[str, str] = {}  # name -> node, of all wanted actors
        self._started_at: dict[str, float] = {}
        self._restarts = Restarts(BACKOFF, STEADY_S)

    @property
    def wanted(self) -> Collection[str]:
        """The names of all wanted actors."""
        return self._nodes.keys()

    def node_of(self, name: str) -> str:
        """The node of a wanted actor; empty for any other."""
        return self._nodes.get(name, "")

    @abstractmethod
    def make(self, name: str, node: str) -> ActorSpec:
        """The specification of an actor to start."""

    def adopt(self, living: Collection[str]) -> None:
        """Watch the actors that an earlier controller has started."""
        for name in living:
            if name.startswith(self._prefix):
                self._actors.adopt(name, introduce=self._introduce)

    def want(self, wanted: Mapping[str, str]) -> None:
        """Set the wanted actors, by name and node: start missing ones, kill others."""
        gone, self._nodes = self._nodes.keys() - wanted.keys(), dict(wanted)
        for name in gone:
            self._restarts.forget(name)
            self._actors.kill(name)
        for name in wanted:
            if not self._actors.is_known(name) and name not in self._restarts:
                self._start(name)

    def ended(self, name: str, ending: ActorExit, *, restart: bool) -> bool:
        """An actor has exited. Returns True if it is wanted; it is restarted then."""
        if name not in self._nodes:
            return False
        delay_s = self._restarts.after(name, self._loop.time() - self._started_at.get(name, 0.0))
        if restart:
            self._loop.call_later(delay_s, self._start, name)
        return True

    def _start(self, name: str) -> None:
        node = self._nodes.get(name)
        if node is None or self._actors.is_known(name):
            return
        self._started_at[name] = self._loop.time()
        self._actors.start(self.make(name, node))


class Ingresses(Supervised):
    """The ingresses of one instance.

    Args:
        given: start arguments of the controller.
        actors: creates and watches them.
    """

    def __init__(self, given: ClusterHandover, actors: Actors) -> None:
        super().__init__(actors, INGRESS_PREFIX)
        self._given = given

    @property
    def homes(self) -> Collection[str]:
        """The nodes that have ingresses."""
        return set(self._nodes.values())

    def keep_up(self, nodes: Collection[str]) -> None:
        """Want ingresses on those of the live ``nodes`` that should have them."""
        given = self._given
        homes = list(nodes) if given.every_node else [node for node in nodes if node == given.home]
        self.want(
            {ingress_name(n, i): n for n in homes for i in range(given.settings.ingresses)}
            if given.settings.http
            else {}
        )

    def make(self, name: str, node: str) -> ActorSpec:
        given = self._given
        handover = given.settings.for_ingress(name, control_path_of(given.namespace, given.settings.instance))
        packed = pack_handover(handover, limit=MAX_MESSAGE)
        return ActorSpec(
            host=ProcessHost,
            name=name,
            method="be_ingress",
            args=HostArgs("ingress", packed, dict(given.environ), given.settings.metrics is not None),
            options={"num_cpus": 0},
            node=node,
        )


log = logging.getLogger("pointsman")

READ_TIMEOUT_S = 5.0


class Exporters(Supervised):
    """The exporters of one instance, without that of the controller.

    Args:
        given: start arguments of the controller.
        actors: creates and watches them.
        own_node: the controller's node.
    """

    def __init__(self, given: ClusterHandover, actors: Actors, own_node: str) -> None:
        super().__init__(actors, METRICS_PREFIX, introduce=True)
        self._given = given
        self._own_node = own_node
        self._in_use: dict[str, float] = {}  # node -> when it last had a process of the instance
        self._addresses: dict[str, str] = {}  # node -> base URL, also of an exporter that is being restarted

    @property
    def addresses(self) -> dict[str, str]:
        """The base URLs of wanted exporters, by node."""
        nodes = self._nodes.values()
        return {node: url for node, url in self._addresses.items() if node in nodes}

    def keep_up(self, nodes: Collection[str], in_use: Collection[str]) -> None:
        """Want an exporter on each of the live ``nodes`` that is in use, or was recently."""
        if self._given.settings.metrics is None:
            return
        now = self._loop.time()
        self._in_use.update(dict.fromkeys(in_use, now))
        self._in_use = {n: at for n, at in self._in_use.items() if n in nodes and at > now - RETIRE_AFTER_S}
        self._addresses = {n: address for n, address in self._addresses.items() if n in self._in_use}
        self.want({metrics_name(node): node for node in self._in_use if node != self._own_node})

    def serves(self, introduction: Introduction) -> None:
        """An exporter has introduced itself."""
        self._addresses[introduction.node] = introduction.metrics

    async def read(self) -> list[Reading]:
        """The current metrics of each; exporters that do not answer are left out."""
        return [unpack(answer, Reading) for answer in (await self._ask("metrics", "read")).values()]

    async def read_pairs(self, wanted: Wanted) -> list[PairCounts]:
        """What was counted of these comparisons on each node; those that do not answer are left out."""
        answers = await self._ask("compared answers", "read_pairs", {name: list(of) for name, of in wanted.items()})
        return [as_counts(unpack(answer, PackedCounts)) for answer in answers.values()]

    async def read_examples(self, name: str, codes: Collection[str], limit: int) -> list[bytes]:
        """Examples of a comparison on each node, in JSON; as above."""
        return list((await self._ask("compared answers", "read_examples", name, list(codes), limit)).values())

    async def read_tallies(self, metrics: Collection[str]) -> dict[str, Counted]:
        """What was counted on the node of each, by node; exporters that do not answer are left out."""
        # Once a second, so that a node that is lost would fill the log.
        answers = await self._ask("tallies", "read_tallies", list(metrics), level=logging.DEBUG)
        return {node: unpack(answer, Counted) for node, answer in answers.items()}

    async def _ask(self, what: str, method: str, *args: object, level: int = logging.WARNING) -> dict[str, bytes]:
        """The answers of exporters, by node."""
        names = [name for name in self._nodes if self._actors.is_known(name)]
        asked = (asyncio.wait_for(self._actors.ask(name, method, *args), READ_TIMEOUT_S) for name in names)
        found: dict[str, bytes] = {}
        for name, answer in zip(names, await asyncio.gather(*asked, return_exceptions=True), strict=True):
            node = self._nodes.get(name, "")
            if isinstance(answer, BaseException):
                log.log(level, "the %s of node %s cannot be read now: %r", what, node, answer)
            elif isinstance(answer, bytes):
                found[node] = answer
        return found

    def make(self, name: str, node: str) -> ActorSpec:
        settings = self._given.settings
        assert settings.metrics is not None
        before = self._addresses.get(node, "").rpartition(":")[2]  # a restarted one keeps its port, for scrapers
        handover = MetricsHandover(
            instance=settings.instance,
            namespace=self._given.namespace,
            host=settings.metrics.host,
            port=int(before) if before else settings.metrics.port,
            log_format=settings.log_format,
        )
        return ActorSpec(
            host=MetricsHost,
            name=name,
            method="be_exporter",
            args=HostArgs("metrics", pack_handover(handover), {}, with_metrics=True),
            options={"num_cpus": 0},
            node=node,
        )
