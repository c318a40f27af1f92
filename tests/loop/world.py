"""A controller with a real store, an engine without processes, and time of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from pointsman.controller.controller import Controller
from pointsman.controller.observed import LaunchMetadata
from pointsman.controller.orders import Launcher
from pointsman.controller.state import of_this_start
from pointsman.controller.store import Store
from pointsman.model import BackendConfigSpec, Capacity, Origin, Resources, TargetTraits
from pointsman.testing import FakeEngine, FakePeers, ReplicaPlan, run
from pointsman.usercode.packing import code_digest
from pointsman.wire.commands import (
    Accepted,
    Await,
    Change,
    CreateBackend,
    CreateEndpoint,
    DeleteBackend,
    Deploy,
    Progress,
    ReplaceBackend,
    UpdateBackendConfig,
)
from pointsman.wire.messages import unpack
from tests.loop.handovers import controller_handover

TRAITS = TargetTraits(is_class=True, has_reconfigure=True)
ORIGIN = Origin("/", ())


class World:
    """One instance's controller and all around it. ``plan`` is how new replicas behave; change it at any time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state.db"
        self.handover = controller_handover(str(folder), capacity=Capacity(num_gpus=2))
        self.plan = ReplicaPlan()
        self.engine = FakeEngine(lambda note: self.plan_of(note))
        self.peers = FakePeers(self.engine)
        self.peers.add_router(1)
        self.progress: list[Progress] = []
        self._ids = itertools.count(1)
        self._controller: Controller | None = None

    def plan_of(self, note: LaunchMetadata) -> ReplicaPlan:
        return self.plan

    @property
    def controller(self) -> Controller:
        assert self._controller is not None
        return self._controller

    async def start(self) -> None:
        """A controller starts, the first or the next."""
        store = Store(self.path)
        loaded = store.open()
        self._controller = Controller(
            engine=self.engine,
            store=store,
            launcher=Launcher(self.handover, epoch=loaded.epoch, environ={}),
            peers=self.peers,
            capacity=self.handover.capacity,
            desired=of_this_start(loaded.desired, self.handover.settings.instance),
            replies=loaded.replies,
            epoch=loaded.epoch,
        )
        self.engine.attach(self.controller)
        self.peers.attach(self.controller)

    async def stop(self) -> None:
        """The controller ends; replicas and routers do not."""
        self.engine.attach(None)
        self.controller.observed.validate()
        await self.controller.aclose()

    async def change(self, command: Change, blob: bytes = b"") -> Accepted:
        return unpack(await self.controller.change(command, blob), Accepted)

    async def wait(
        self, version: int, backend: str | None = None, *, gone: bool = False, timeout_s: float | None = 300
    ) -> None:
        command = Await(id=self.new_id(), version=version, backend=backend, gone=gone, timeout_s=timeout_s)
        await self.controller.wait(command, frozenset(), self.progress.append)

    def new_id(self) -> str:
        return f"c{next(self._ids)}"

    def create_order(self, tag: str = "b", **config: Any) -> CreateBackend:
        return CreateBackend(
            id=self.new_id(),
            tag=tag,
            code=code_digest(b"code 1"),
            traits=TRAITS,
            config=BackendConfigSpec(**config),
            resources=Resources(),
            origin=ORIGIN,
        )

    async def create(self, tag: str = "b", **config: Any) -> None:
        """What ``client.create_backend`` does."""
        accepted = await self.change(self.create_order(tag, **config), b"code 1")
        await self.wait(accepted.version, tag)

    async def create_endpoint(self, name: str = "e", backend: str = "b", route: str | None = "/e") -> None:
        order = CreateEndpoint(
            id=self.new_id(), name=name, backend=backend, route=route, methods=("GET",), idempotent=False
        )
        accepted = await self.change(order)
        await self.wait(accepted.version)

    async def update(self, tag: str = "b", *, user_config: bytes | None = None, **changes: Any) -> None:
        if user_config is not None:
            changes["user_config"] = None
        order = UpdateBackendConfig(id=self.new_id(), tag=tag, changes=changes, user_config=user_config)
        accepted = await self.change(order)
        await self.wait(accepted.version, tag)

    async def delete(self, tag: str = "b", *, force: bool = False) -> None:
        accepted = await self.change(DeleteBackend(id=self.new_id(), tag=tag, force=force))
        await self.wait(accepted.version, tag, gone=True)

    async def replace(self, tag: str, code: bytes, **changes: Any) -> None:
        order = ReplaceBackend(self.new_id(), tag, code_digest(code), ORIGIN, TRAITS, changes, None, None)
        accepted = await self.change(order, code)
        await self.wait(accepted.version, tag)

    async def deploy(self, name: str, code: bytes) -> None:
        order = Deploy(
            id=self.new_id(),
            name=name,
            code=code_digest(code),
            traits=TRAITS,
            config_changes={},
            user_config=None,
            resources=None,
            route=None,
            methods=None,
            idempotent=None,
            origin=ORIGIN,
        )
        accepted = await self.change(order, code)
        await self.wait(accepted.version, name)


def in_world(folder: Path, test: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    """Run a test with a controller that has started."""

    async def main() -> None:
        world = World(folder)
        await world.start()
        await test(world)
        await world.stop()

    run(main())
