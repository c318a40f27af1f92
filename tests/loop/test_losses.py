"""Internal calls that fail in three ways: request lost, reply lost, reply lost while its handler runs (FT7)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pointsman.controller.observed import LaunchMetadata
from pointsman.engine.orders import ProcessEvent
from pointsman.exceptions import ReplicaDiedError
from pointsman.model import Allocation, BackendConfigSpec, Resources
from pointsman.testing import Loss, Losses, MemoryReplica, ReplicaPlan, new_call, run, settle, virtual_loop
from pointsman.usercode.packing import code_digest
from pointsman.wire.auth import ROLE_INGRESS, derive_key
from pointsman.wire.commands import (
    Await,
    Change,
    CreateBackend,
    CreateEndpoint,
    DeleteBackend,
    DeleteEndpoint,
    Deploy,
    Pin,
    Query,
    ReplaceBackend,
    RollbackTraffic,
    SetTraffic,
    ShadowTraffic,
    Unpin,
    UpdateBackendConfig,
)
from pointsman.wire.control import ControlLink
from pointsman.wire.frames import Kind, WireError
from pointsman.wire.messages import pack
from tests.loop import models
from tests.loop.linked import CONTROL, MASTER, LinkedWorld, in_linked_world
from tests.loop.models import JOURNAL
from tests.loop.routers import routed
from tests.loop.world import ORIGIN, TRAITS, World, in_world

ONCE = "once"
WAYS = pytest.mark.parametrize("loss", Loss, ids=lambda loss: loss.value)


def create(command_id: str, tag: str, code: bytes = b"code 1", **config: Any) -> CreateBackend:
    return CreateBackend(command_id, tag, code_digest(code), ORIGIN, TRAITS, BackendConfigSpec(**config), Resources())


def deploy(command_id: str, name: str, code: bytes) -> Deploy:
    return Deploy(
        command_id, name, code_digest(code), ORIGIN, TRAITS, {"rollout_watch_s": 0.1}, None, None, None, None, None
    )


def replace(command_id: str, tag: str, code: bytes) -> ReplaceBackend:
    changes = {"rollout_watch_s": 0.1}
    return ReplaceBackend(command_id, tag, code_digest(code), ORIGIN, TRAITS, changes, None, None)


class Case(NamedTuple):
    """A command, and what to wait for afterwards."""

    order: Change
    blob: bytes = b""
    backend: str | None = None
    gone: bool = False


CASES = {
    "create_backend": Case(create(ONCE, "x"), b"code 1", "x"),
    "update, scale": Case(UpdateBackendConfig(ONCE, "b", {"num_replicas": 2}), backend="b"),
    "update, user_config": Case(UpdateBackendConfig(ONCE, "b", {"user_config": None}, b"new"), backend="b"),
    "update, another field": Case(UpdateBackendConfig(ONCE, "b", {"max_queued_queries": 9}), backend="b"),
    "delete_backend": Case(DeleteBackend(ONCE, "spare", False), backend="spare", gone=True),
    "delete_backend, force": Case(DeleteBackend(ONCE, "spare", True), backend="spare", gone=True),
    "create_endpoint": Case(CreateEndpoint(ONCE, "f", "b", "/f", ("GET",), False)),
    "delete_endpoint": Case(DeleteEndpoint(ONCE, "e")),
    "deploy": Case(deploy(ONCE, "d", b"code 2"), b"code 2", "d"),
    "deploy again": Case(deploy(ONCE, "b", b"code 2"), b"code 2", "b"),
    "replace_backend": Case(replace(ONCE, "b", b"code 2"), b"code 2", "b"),
    "set_traffic": Case(SetTraffic(ONCE, "b", {"b": 0.5, "spare": 0.5})),
    "shadow_traffic": Case(ShadowTraffic(ONCE, "b", "spare", 0.5)),
    "rollback_traffic": Case(RollbackTraffic(ONCE, "e", None)),
    "pin": Case(Pin(ONCE, "b", ("alice",), "b")),
    "unpin": Case(Unpin(ONCE, "e", ("bob",))),
}
COMMANDS = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())

PREPARATIONS: list[tuple[Change, bytes, str | None]] = [
    (create("p1", "b", user_config=b"old", rollout_watch_s=0.1), b"code 1", "b"),
    (create("p2", "spare"), b"code 1", "spare"),
    (CreateEndpoint("p3", "b", "b", "/b", ("GET",), False), b"", None),
    (CreateEndpoint("p4", "e", "b", "/e", ("GET",), False), b"", None),
    (SetTraffic("p5", "e", {"spare": 0.5, "b": 0.5}), b"", None),
    (SetTraffic("p6", "e", {"b": 1.0}), b"", None),
    (Pin("p7", "e", ("bob",), "b"), b"", None),
]


@COMMANDS
def test_every_command_may_be_sent_twice(tmp_path: Path, case: Case) -> None:
    """Whatever I ask for, asking again with the same id, of this controller or the next, gets the same reply and
    changes nothing (FT5, CL5)."""

    async def test(world: World) -> None:
        for command, blob, backend in PREPARATIONS:
            await world.wait((await world.change(command, blob)).version, backend)
        order = case.order
        first = await world.controller.change(order, case.blob)
        assert world.controller.desired.version > 7
        await world.wait(world.controller.desired.version, case.backend, gone=case.gone)
        desired = world.controller.desired
        assert await world.controller.change(order, case.blob) == first
        assert world.controller.desired == desired
        await world.stop()
        await world.start()
        assert await world.controller.change(order, case.blob) == first
        assert world.controller.desired == desired

    in_world(tmp_path, test)


@WAYS
@COMMANDS
def test_commands(case: Case, loss: Loss) -> None:
    """A client whose connection breaks around a command sends it again, and it is carried out once (FT7, CL5)."""

    async def test(world: LinkedWorld) -> None:
        for command, blob, backend in PREPARATIONS:
            await world.carry_out(command, blob, backend=backend)
        before = world.controller.desired.version
        world.losses.arrange(Kind.COMMAND, Kind.REPLY, loss)
        version = await world.change(case.order, case.blob)
        assert world.losses.cuts == 1
        assert world.controller.desired.version == version == before + 1
        await world.wait(version, case.backend, gone=case.gone)

    in_linked_world(test)


@WAYS
@pytest.mark.parametrize("what", ["await", "query"])
def test_commands_that_change_nothing(what: str, loss: Loss) -> None:
    """Waiting and looking survive a broken connection, too (FT7)."""

    async def test(world: LinkedWorld) -> None:
        world.plan = ReplicaPlan(ready_s=5.0)
        version = await world.change(create("c", "b"), b"code 1")
        world.losses.arrange(Kind.COMMAND, Kind.REPLY, loss)
        command = Await("a", version, "b", False, 60.0) if what == "await" else Query("q")
        assert isinstance(await world.driver.command(command), bytes)
        assert world.losses.cuts == 1
        await world.wait(version, "b")
        assert len(world.engine.launched) == 1

    in_linked_world(test)


def test_a_change_waits_for_connections_of_its_own_replicas_only() -> None:
    """While an HTTP server dials a new replica, ``create_backend`` waits, and a change of traffic does not; replicas
    leave at once, since the table is in use (SO1, CL4, DR3)."""

    async def test(world: LinkedWorld) -> None:
        await world.carry_out(create("c", "b", num_replicas=2), b"code 1", backend="b")
        reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        world.router.on_table = lambda table, change: asyncio.shield(reached)
        creating = asyncio.ensure_future(world.carry_out(create("d", "other"), b"code 1", backend="other"))
        await asyncio.sleep(5)
        assert not creating.done()
        await world.carry_out(CreateEndpoint("e", "e", "b", "/e", ("GET",), False), backend=None)
        await world.change(UpdateBackendConfig("u", "b", {"num_replicas": 1}))
        await asyncio.sleep(0.5)
        assert len(world.engine.history("stop")) == 1
        reached.set_result(None)
        await creating

    in_linked_world(test)


@WAYS
def test_assignments(loss: Loss) -> None:
    """A replica whose connection breaks while it is told what to run comes up all the same, and is no other (FT7)."""

    async def test(world: LinkedWorld) -> None:
        world.losses.arrange(Kind.ASSIGN, Kind.REPORT, loss)
        await world.carry_out(create("c", "b"), b"code 1", backend="b")
        assert world.losses.cuts == 1
        assert len(world.engine.launched) == 1

    in_linked_world(test)


@WAYS
def test_new_configurations(loss: Loss) -> None:
    """A replica that misses a new config, or whose word of it is lost, has it when the update returns (FT7, RC2)."""

    async def test(world: LinkedWorld) -> None:
        world.plan = ReplicaPlan(reconfigure_s=1.0)
        await world.carry_out(create("c", "b", user_config=b"old"), b"code 1", backend="b")
        world.losses.arrange(Kind.CONFIGURE, Kind.REPORT, loss)
        update = UpdateBackendConfig("u", "b", {"user_config": None}, b"new")
        await world.carry_out(update, backend="b")
        assert world.losses.cuts == 1
        (replica,) = world.engine.launched
        assert replica.config_versions[-1] == world.controller.desired.backends["b"].config_version

    in_linked_world(test)


@WAYS
def test_refused_configurations(loss: Loss) -> None:
    """The word that a config was refused, or the order to go back, is lost: the old one is in force in the end (FT7,
    RC10)."""

    async def test(world: LinkedWorld) -> None:
        await world.carry_out(create("c", "b", user_config=b"old"), b"code 1", backend="b")
        (replica,) = world.engine.launched
        replica.plan = ReplicaPlan(reconfigure_s=1.0, reconfigure_error="bad value")
        version = await world.change(UpdateBackendConfig("u", "b", {"user_config": None}, b"new"))
        await asyncio.sleep(0.5)
        world.losses.arrange(Kind.CONFIGURE, Kind.REPORT, loss)  # the order to go back
        asyncio.get_running_loop().call_later(0.6, setattr, replica, "plan", ReplicaPlan(reconfigure_s=1.0))
        with pytest.raises(Exception, match="bad value"):
            await world.wait(version, "b")
        await asyncio.sleep(10)
        assert world.losses.cuts == 1
        assert world.controller.desired.backends["b"].config.user_config == b"old"
        assert replica.config_versions[-1] == world.controller.desired.backends["b"].config_version
        assert len(world.engine.launched) == 1

    in_linked_world(test)


@WAYS
def test_drains(loss: Loss) -> None:
    """A replica that does not hear that it shall drain hears it again; nobody waits for its drain limit (FT7, DR3)."""

    async def test(world: LinkedWorld) -> None:
        world.plan = ReplicaPlan(drain_s=1.0)
        await world.carry_out(create("c", "b", num_replicas=2), b"code 1", backend="b")
        world.losses.arrange(Kind.DRAIN, Kind.REPORT, loss)
        began = asyncio.get_running_loop().time()
        await world.carry_out(UpdateBackendConfig("u", "b", {"num_replicas": 1}), backend="b")
        assert world.losses.cuts == 1
        assert asyncio.get_running_loop().time() - began < 5
        assert world.engine.history("kill") == []

    in_linked_world(test)


@WAYS
@pytest.mark.parametrize(
    ("request_kind", "reply_kind"), [(Kind.TABLE_CHANGE, Kind.CONFIRM), (Kind.SUBSCRIBE, Kind.TABLE)]
)
def test_tables(request_kind: Kind, reply_kind: Kind, loss: Loss) -> None:
    """A router that misses a table, or is not heard to have it, has the newest within half a second, and the call that
    waits for the routers returns (FT7, CL4)."""

    async def test(world: LinkedWorld) -> None:
        await world.carry_out(create("c", "b"), b"code 1", backend="b")
        world.losses.arrange(request_kind, reply_kind, loss)
        if request_kind is Kind.SUBSCRIBE:
            world.router.subscribe(ingress=True, pid=1)
        await world.carry_out(CreateEndpoint("e", "e", "b", "/e", ("GET",), False), backend=None)
        await asyncio.sleep(0.5)
        assert world.losses.cuts == 1
        assert "e" in world.tables[-1].endpoints
        assert [table.version for table in world.tables] == sorted(table.version for table in world.tables)

    in_linked_world(test)


@WAYS
@pytest.mark.parametrize("idempotent", [True, False])
def test_calls(loss: Loss, idempotent: bool) -> None:
    """A call whose connection breaks is answered if it may be repeated; otherwise its caller hears that it may have
    run, and it has not run twice (FT7, FT12)."""

    async def main() -> None:
        JOURNAL.clear()
        losses = Losses(virtual_loop().network)
        async with MemoryReplica(models.Slow) as replica, routed(replica) as router:
            losses.arrange(Kind.CALL, Kind.REPLY, loss)
            call = new_call(body=b"5", idempotent=idempotent)
            router.submit(call)
            if idempotent:
                assert (await call.future).body == b"old old"
            else:
                with pytest.raises(ReplicaDiedError, match="may have run"):
                    await call.future
            await settle()
            assert losses.cuts == 1
            assert JOURNAL.count("begin 5") <= 1 + idempotent

    run(main())


def test_a_new_ingress_is_counted_before_there_is_a_table() -> None:
    """The controller has just begun and waits for the replicas that it has taken over: an HTTP server that subscribes
    is told that changes wait for it from now on, and serves by the table that is kept (CL4, F8, F10)."""

    async def main() -> None:
        world = LinkedWorld()
        note = LaunchMetadata("b", 1, "b#silent", Allocation(Resources()))
        world.controller.process_event(ProcessEvent("recovered", live={77: (1, pack(note))}))
        kinds: list[int] = []
        ingress = ControlLink(
            path=CONTROL,
            instance="i",
            role=ROLE_INGRESS,
            identity="0",
            key=derive_key(MASTER, ROLE_INGRESS, "0"),
            on_table=lambda table, change: kinds.append(Kind.TABLE),
            on_frame=lambda frame: kinds.append(frame.kind),
        )
        ingress.subscribe(ingress=True, pid=2)
        await world.start()
        await ingress.start()
        await settle()
        assert kinds == [Kind.CONFIRM]
        assert len(world.connections.ingress_routers()) == 2
        assert not world.controller.published
        await ingress.aclose()
        await world.stop()

    run(main())


def test_a_controller_that_says_nothing() -> None:
    """The controller is stopped for minutes: an HTTP server or a replica that dials goes on trying, and a client is
    told after 30 s (F9)."""

    async def main() -> None:
        gone: list[str] = []

        def link(patient: bool) -> ControlLink:
            key = derive_key(MASTER, ROLE_INGRESS, "0")
            return ControlLink(
                path=CONTROL,
                instance="i",
                role=ROLE_INGRESS,
                identity="0",
                key=key,
                patient=patient,
                on_gone=lambda: gone.append("patient" if patient else "impatient"),
            )

        mute = virtual_loop().network.listen(CONTROL, asyncio.Protocol)
        patient = link(patient=True)
        waiting = asyncio.ensure_future(patient.start())
        with pytest.raises(WireError, match="no complete hello within 30 s"):
            await link(patient=False).start()
        await asyncio.sleep(200)
        assert not waiting.done()
        assert gone == ["impatient"]
        mute.close()
        world = LinkedWorld()
        await world.start()
        await waiting
        await patient.aclose()
        await world.stop()

    run(main())


class _Closes(asyncio.Protocol):
    """What an acceptor does to a dialer of another wire version."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.close()


def test_a_controller_of_another_version() -> None:
    """An instance runs that another version of Pointsman has started: whoever dials it is told so, and does not try for
    ever (CL3, G9)."""

    async def main() -> None:
        virtual_loop().network.listen(CONTROL, _Closes)
        link = ControlLink(path=CONTROL, instance="i", role=ROLE_INGRESS, identity="0", key=b"k" * 32)
        with pytest.raises(WireError, match="another version of Pointsman"):
            await link.start()
        await link.aclose()

    run(main())
