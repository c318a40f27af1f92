"""Metrics on each node: the controller serves those of its own, elsewhere an actor does that does nothing else.

It is on no request's way, and user code cannot keep it from answering. It is there where something of the instance
runs, and for as long after that as counts of what has ended are shown by replica.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import time
from collections.abc import Collection
from typing import NamedTuple

import ray
from ray.exceptions import ActorDiedError, RayError

from pointsman.engine.base import MetricsPort
from pointsman.engine.child import pack_handover, unpack_handover
from pointsman.engine.listening import listen_for_metrics, url_of
from pointsman.engine.ray.actors import Actors, Wanted
from pointsman.engine.ray.folder import NodeFolder
from pointsman.engine.ray.hosts import Birth, Introduction, node_of_this_process
from pointsman.engine.ray.names import CONTROLLER, METRICS_PREFIX, metrics_name
from pointsman.engine.ray.standing import Standing
from pointsman.telemetry import logs
from pointsman.telemetry.collector import RETIRE_AFTER_S
from pointsman.telemetry.exporter import Exporter
from pointsman.telemetry.reports import Reading, reading_of
from pointsman.wire.address import set_node
from pointsman.wire.handover import ClusterHandover, MetricsHandover
from pointsman.wire.messages import pack, unpack

log = logging.getLogger("pointsman")

READ_TIMEOUT_S = 5.0
PAUSE_S = 0.1


class Serving(NamedTuple):
    """What an exporter serves at."""

    exporter: Exporter
    url: str


class MetricsHost:
    """The actor. Its methods are answered on one event loop, which also serves the metrics.

    Args:
        birth: what it is given.
    """

    def __init__(self, birth: Birth) -> None:
        self._birth = birth
        self._serving: concurrent.futures.Future[Serving] = concurrent.futures.Future()
        self._told = asyncio.Event()
        self._over = asyncio.Event()

    def __repr__(self) -> str:
        return self._birth.label

    async def introduce(self) -> Introduction:
        """Who it is, and where it serves; once it does."""
        serving = await asyncio.wrap_future(self._serving)
        return Introduction(os.getpid(), node_of_this_process(), serving.url)

    async def be_exporter(self) -> None:
        """Serve until the instance ends, which is this actor's end as well.

        Raises:
            OSError: nothing can be bound here.
        """
        handover = unpack_handover(self._birth.handover, MetricsHandover)
        logs.set_up(handover.log_format, "metrics")
        set_node(node_of_this_process())
        folder = NodeFolder(handover.instance)
        folder.enter(with_metrics=self._birth.with_metrics)
        # Other nodes may be on this machine, and more of them may join: a port in use is no error here.
        listener = listen_for_metrics(MetricsPort(handover.host, handover.port, strict=False))
        exporter = Exporter(folder.metrics, listener)
        await exporter.start()
        self._serving.set_result(Serving(exporter, url_of(listener, ray.util.get_node_ip_address())))
        watching = asyncio.ensure_future(_end_of_instance(handover.namespace))
        told = asyncio.ensure_future(self._told.wait())
        await asyncio.wait({watching, told}, return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        await exporter.aclose()
        listener.close()
        folder.leave()
        self._over.set()  # Ray lets no actor with a loop exit while a method of it is under way
        ray.actor.exit_actor()

    async def read(self) -> bytes:
        """A packed :class:`Reading` of this node's metrics."""
        serving = await asyncio.wrap_future(self._serving)
        return pack(reading_of(await serving.exporter.collect(), time.monotonic()))

    async def end(self) -> None:
        """End, now that the instance does."""
        self._told.set()

    async def attend(self) -> None:
        """Returns at the end and not before: who waits for it learns of that."""
        await self._over.wait()


class Exporters(Standing):
    """The exporters of one instance, but for the controller's own.

    Args:
        given: of the instance.
        actors: makes and watches them.
        own_node: where the controller serves.
    """

    def __init__(self, given: ClusterHandover, actors: Actors, own_node: str) -> None:
        super().__init__(actors, METRICS_PREFIX, introduce=True)
        self._given = given
        self._own_node = own_node
        self._in_use: dict[str, float] = {}
        """Node -> when something of the instance was last seen there."""
        self._addresses: dict[str, str] = {}
        """Node -> base URL, also of one that is just started again."""

    @property
    def addresses(self) -> dict[str, str]:
        """Node -> base URL, of those that there should be."""
        nodes = self._nodes.values()
        return {node: url for node, url in self._addresses.items() if node in nodes}

    def keep_up(self, nodes: Collection[str], in_use: Collection[str]) -> None:
        """Have one on each of these nodes, which are all that live, as far as they are or were in use."""
        if self._given.metrics_host is None:
            return
        now = self._loop.time()
        self._in_use.update(dict.fromkeys(in_use, now))
        self._in_use = {n: at for n, at in self._in_use.items() if n in nodes and at > now - RETIRE_AFTER_S}
        self._addresses = {n: address for n, address in self._addresses.items() if n in self._in_use}
        self.want({metrics_name(node): node for node in self._in_use if node != self._own_node})

    def serves(self, introduction: Introduction) -> None:
        """One of them is up."""
        self._addresses[introduction.node] = introduction.metrics

    async def read(self) -> list[Reading]:
        """What each of them counts now; those that do not answer are left out."""
        names = [name for name in self._nodes if self._actors.is_known(name)]
        answers = (asyncio.wait_for(self._actors.ask(name, "read"), READ_TIMEOUT_S) for name in names)
        found = await asyncio.gather(*answers, return_exceptions=True)
        for name, answer in zip(names, found, strict=True):
            if isinstance(answer, BaseException):
                log.warning("the metrics of node %s cannot be read now: %r", self._nodes.get(name), answer)
        return [unpack(answer, Reading) for answer in found if isinstance(answer, bytes)]

    def make(self, name: str, node: str) -> Wanted:
        given = self._given
        before = self._addresses.get(node, "").rpartition(":")[2]
        handover = MetricsHandover(
            instance=given.instance,
            namespace=given.namespace,
            host=given.metrics_host or "",
            port=int(before) if before else given.metrics_port,
            log_format=given.log_format,
        )
        return Wanted(
            host=MetricsHost,
            name=name,
            method="be_exporter",
            birth=Birth("metrics", pack_handover(handover), {}, with_metrics=True),
            options={"num_cpus": 0},
            node=node,
        )


async def _end_of_instance(namespace: str) -> None:
    """Return when there is no controller any more. One that Ray starts again is still there."""
    while True:
        try:
            # On a thread: this blocks for as long as the cluster's head does not answer.
            controller = await asyncio.to_thread(ray.get_actor, CONTROLLER, namespace=namespace)
            await controller.attend.remote()
        except (ValueError, ActorDiedError):
            return
        except RayError as error:
            log.debug("the controller is not there just now: %s", error)
        await asyncio.sleep(PAUSE_S)
