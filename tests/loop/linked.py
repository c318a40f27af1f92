"""A controller whose replicas, router and driver talk to it over connections, which tests may break."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from pointsman.controller.commands import Commands
from pointsman.controller.connections import Connections
from pointsman.controller.controller import Controller
from pointsman.controller.orders import Launcher
from pointsman.engine.orders import LaunchOrder, ProcessEvent
from pointsman.engine.process import unpack_handover
from pointsman.engine.ray.folder import RAY_PREFIX
from pointsman.model import Capacity, RoutingTable
from pointsman.testing import FakeEngine, FakeReplica, Losses, ReplicaPlan, run, virtual_loop
from pointsman.wire.auth import ROLE_INGRESS, ROLE_OPERATOR, ROLE_REPLICA, derive_key
from pointsman.wire.commands import Accepted, Await, Change
from pointsman.wire.control import ControlLink
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.handover import ReplicaHandover
from pointsman.wire.messages import Report, unpack
from pointsman.wire.stream import acceptor
from tests.loop.handovers import MASTER, controller_handover
from tests.loop.simulation import MemoryStore

CONTROL = "ctl"


class LinkedEngine(FakeEngine):
    """Its replicas connect to the controller, as real ones do."""

    def __init__(self, plan_of: Callable[[Any], ReplicaPlan]) -> None:
        super().__init__(plan_of)
        self.links: dict[int, ControlLink] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def launch(self, order: LaunchOrder) -> None:
        super().launch(order)
        handover = unpack_handover(order.handover, ReplicaHandover)
        self.links[order.number] = ControlLink(
            path=CONTROL,
            instance="i",
            role=ROLE_REPLICA,
            identity=str(order.number),
            key=handover.control_key,
            on_ready=lambda link: link.report(self.live[order.number].report),
            on_frame=partial(self._ordered, order.number),
        )

    def exit(self, number: int, text: str = "killed by SIGKILL") -> None:
        super().exit(number, text)
        self._spawn(self.links[number].aclose())

    async def aclose(self) -> None:
        await asyncio.gather(*self._tasks, *(link.aclose() for link in self.links.values()))

    def _started(self, replica: FakeReplica) -> None:
        self._event(ProcessEvent("started", replica.number, replica.pid))
        self._spawn(self.links[replica.number].start())

    def _report(self, replica: FakeReplica, report: Report) -> None:
        replica.report = report
        self.links[replica.number].report(report)

    def _ordered(self, number: int, frame: Frame) -> None:
        replica = self.live.get(number)
        if replica is not None and not (frame.kind == Kind.ASSIGN and replica.assigned):
            self.tell(number, Kind(frame.kind), frame.head, frame.body)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class LinkedConnections(Connections):
    """Replicas have no health threads here: their engine knows."""

    engine: FakeEngine

    def request_health(self, number: int) -> None:
        self.engine.ask(number)


class LinkedWorld:
    """One instance's controller and all who are connected to it."""

    def __init__(self) -> None:
        self.losses = Losses(virtual_loop().network)
        self.plan = ReplicaPlan()
        self.engine = LinkedEngine(lambda note: self.plan)
        self.tables: list[RoutingTable] = []
        self._store = MemoryStore()
        self._ids = 0
        # As on a cluster, where no folder keeps the last table.
        handover = controller_handover(control_path=RAY_PREFIX)
        loaded = self._store.open()
        self.connections = LinkedConnections(handover)
        self.connections.engine = self.engine
        self.controller = Controller(
            engine=self.engine,
            store=self._store,
            launcher=Launcher(handover, epoch=loaded.epoch, environ={}),
            peers=self.connections,
            capacity=Capacity(),
            desired=loaded.desired,
            replies=loaded.replies,
            epoch=loaded.epoch,
        )
        commands = Commands(handover.settings, self.controller, self.engine, ingresses=self.connections.ingresses)
        self.connections.serve(self.controller, commands, disconnected=self.engine.nodes.disconnected)
        self.engine.attach(self.controller)
        accept = acceptor(self.connections, instance="i", key_for=self.connections.key_for)
        self.server = virtual_loop().network.listen(CONTROL, accept)
        self.driver = self.link(ROLE_OPERATOR)
        self.router = self.link(ROLE_INGRESS, on_table=lambda table, change: self.tables.append(table))

    def link(self, role: str, identity: str = "", **more: Any) -> ControlLink:
        """A connection that is not begun yet, of one who has the key of a role."""
        key = derive_key(MASTER, role, identity)
        return ControlLink(path=CONTROL, instance="i", role=role, identity=identity, key=key, **more)

    async def start(self) -> None:
        await self.driver.start()
        await self.router.start()
        self.router.subscribe(ingress=True, pid=1)

    async def stop(self) -> None:
        self.controller.observed.validate()
        await asyncio.gather(self.driver.aclose(), self.router.aclose(), self.engine.aclose())
        self.server.close()
        await self.controller.aclose()

    def new_id(self) -> str:
        self._ids += 1
        return f"c{self._ids}"

    async def change(self, command: Change, blob: bytes = b"") -> int:
        """Send a command; the version that it was accepted as."""
        return unpack(await self.driver.command(command, blob), Accepted).version

    async def wait(self, version: int, backend: str | None, *, gone: bool = False) -> None:
        await self.driver.command(Await(self.new_id(), version, backend, gone, 300.0))

    async def carry_out(self, command: Change, blob: bytes = b"", *, backend: str | None, gone: bool = False) -> None:
        """What the client does."""
        await self.wait(await self.change(command, blob), backend, gone=gone)


def in_linked_world(test: Callable[[LinkedWorld], Coroutine[Any, Any, None]]) -> None:
    """Run a test with a controller, a driver and a router that are connected."""

    async def main() -> None:
        world = LinkedWorld()
        await world.start()
        await test(world)
        await world.stop()

    run(main())
