"""What is over a limit fails by itself: no other call, and no other command, loses the connection that it shares."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from pointsman.controller.state import Desired
from pointsman.engine.local.engine import SupervisorLink
from pointsman.engine.orders import LaunchOrder, ProcessEvent
from pointsman.exceptions import CallRejectedError, ServeException, TooLargeError, UserCodeError
from pointsman.limits import MAX_MESSAGE, MAX_TEXT
from pointsman.model import Reason, ReplicaConfig, Resources
from pointsman.replica import streams
from pointsman.replica.health import Check
from pointsman.replica.item import Item
from pointsman.replica.metrics import NullRecorder
from pointsman.replica.usercontext import UserContext
from pointsman.testing import MemoryReplica, ReplicaPlan, ScriptedReplica, new_call, run, settle
from pointsman.wire import encoding
from pointsman.wire.commands import (
    BackendList,
    CreateEndpoint,
    DeleteEndpoint,
    Query,
    QueryBackends,
    Status,
    UpdateBackendConfig,
)
from pointsman.wire.control import MAX_LOST
from pointsman.wire.frames import Kind
from pointsman.wire.messages import FailureHead, unpack
from tests.loop.linked import LinkedWorld, in_linked_world
from tests.loop.routers import routed, submitted
from tests.loop.test_losses import create
from tests.loop.test_runtime import Caller, metrics_of

MB = 1_000_000
HEADERS = [(b"x-large", b"v" * 17 * MB)]


@pytest.fixture
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of more than 200 kB are refused, as those of more than 2 GiB are."""
    monkeypatch.setattr(encoding, "MAX_PAYLOAD", 200_000)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"headers": HEADERS}, TooLargeError),
        ({"method_name": "m" * 17 * MB}, TooLargeError),
        ({"http_method": "\ud800"}, CallRejectedError),
    ],
)
def test_a_call_that_cannot_be_sent_fails_alone(fields: dict[str, Any], error: type[Exception]) -> None:
    """A call with 17 MB of headers is its caller's error; calls beside it on the connection are answered (F39)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica) as router:
            before = await submitted(router, 2)
            bad = new_call(**fields)
            router.submit(bad)
            with pytest.raises(error, match="the call to endpoint 'b' cannot be sent: "):
                await bad.future
            after = await submitted(router, 2)
            for _ in range(4):
                replica.reply()
            assert [(await call.future).status for call in (*before, *after)] == [200] * 4
            assert len(replica.pipes) == 1

    run(main())


def test_a_call_that_cannot_be_sent_does_not_block_the_queue() -> None:
    """One that waited for a replica fails when its turn comes, and those behind it are served (F39)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica, max_concurrent_queries=1) as router:
            first = await submitted(router, 1)
            bad = new_call(headers=HEADERS)
            router.submit(bad)
            last = await submitted(router, 1)
            replica.reply()
            await settle()
            replica.reply()
            assert [(await call.future).status for call in (*first, *last)] == [200, 200]
            with pytest.raises(TooLargeError, match="17000"):
                await bad.future

    run(main())


def test_an_order_that_is_too_large_is_a_start_that_failed() -> None:
    """A replica that cannot be ordered ends as one that could not be started, and the controller goes on (F21)."""

    async def main() -> None:
        events: list[ProcessEvent] = []
        ours, theirs = socket.socketpair()
        with theirs:
            link = SupervisorLink(events.append, ours, ingresses_wanted=0)
            await link.start()
            link.launch(LaunchOrder(7, "b#1", {}, b"", b"", own_env={"X": "v" * 17 * MB}))
            while not events:
                await asyncio.sleep(0)
        (event,) = events
        assert (event.event, event.number) == ("exited", 7)
        assert event.exit.startswith("could not be started: the head of a LAUNCH frame")

    asyncio.run(main())


@pytest.mark.usefixtures("small_frames")
def test_a_table_that_is_too_large_does_not_end_the_controller() -> None:
    """Routers go on with the one before, and the controller with what it is told next (F8)."""

    async def test(world: LinkedWorld) -> None:
        await world.carry_out(create("p", "b"), b"code 1", backend="b")
        for number in range(3):
            methods = (str(number) * 90_000,)
            await world.change(CreateEndpoint(f"e{number}", f"e{number}", "b", f"/{number}", methods, False))
        await world.change(DeleteEndpoint("d", "e1"))
        await world.wait(world.controller.desired.version, None)
        assert list(world.tables[-1].endpoints) == ["e0", "e2"]

    in_linked_world(test)


class Careless:
    """Answers with as many bytes as the request says, or raises an exception of as many."""

    async def __call__(self, request: Any) -> bytes:
        size = int(await request.body())
        if size < 0:
            raise ValueError("x" * -size)
        return b"b" * size

    async def stream(self, request: Any) -> Any:
        yield b"0123456789"


def test_a_huge_exception_is_told_of_in_a_few_kilobytes() -> None:
    """``raise ValueError(text)`` with a text of 9 MB is a failure of that request; the others are answered (F39)."""

    async def main() -> None:
        async with MemoryReplica(Careless) as replica:
            caller = await Caller().connect(replica)
            calls = [caller.call(body) for body in ("1", f"-{9 * MB}", "2")]
            one, bad, two = [await caller.answer(call) for call in calls]
            assert (one.body, two.body) == (b"b", b"bb")
            failure = unpack(bad.head, FailureHead)
            assert (bad.kind, failure.reason, failure.error) == (Kind.FAILURE, Reason.USER_CODE, "ValueError")
            assert "bytes are left out" in failure.text
            assert len(bad.head) < 3 * MAX_TEXT
            unknown = await caller.answer(caller.call(method="m" * 9 * MB))
            assert unpack(unknown.head, FailureHead).reason is Reason.REJECTED
            assert len(unknown.head) < 2 * MAX_TEXT

    run(main())


def careless(request: Any) -> bytes:
    """The same on the thread, which counts an answer before the loop finds it too large."""
    return b"b" * int(request.body())


@pytest.mark.usefixtures("small_frames")
@pytest.mark.parametrize("code", [Careless, careless])
def test_an_answer_that_is_too_large_is_an_error_of_that_request(code: Any) -> None:
    """Its caller learns size and limit, and it counts as one; the replica's other callers are answered (F39)."""
    late: list[bool] = []

    class Counts(NullRecorder):
        def processed(self, item: Item, *, failed: bool) -> None:
            item.counted = True

        def failed_late(self, item: Item) -> None:
            late.append(item.began > 0 and not item.counted)

    async def main() -> None:
        async with MemoryReplica(code, metrics=metrics_of(Counts())) as replica, routed(replica) as router:
            sizes = (10, 300_000, 100_000)
            calls = [new_call(http_method="POST", body=str(size).encode()) for size in sizes]
            for call in calls:
                router.submit(call)
            assert len((await calls[0].future).body) == 10
            assert len((await calls[2].future).body) == 100_000
            with pytest.raises(UserCodeError, match=r"the answer cannot be sent: .* 3000\d\d bytes.* 200000 bytes"):
                await calls[1].future
            assert replica.runtime.load == 0
            assert late == [True]

    run(main())


def test_a_part_of_a_stream_that_is_too_large_goes_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads a streamed answer gets all of its bytes, however large user code makes the parts (RP4)."""
    monkeypatch.setattr(streams, "MAX_BODY", 4)

    async def main() -> None:
        async with MemoryReplica(Careless, config=ReplicaConfig(http_methods=("stream",))) as replica:
            caller = await Caller().connect(replica)
            call = caller.call(method="stream")
            await caller.until(lambda: caller.of(call) and caller.of(call)[-1].kind == Kind.END)
            chunks = [frame.body for frame in caller.of(call) if frame.kind == Kind.CHUNK]
            assert chunks == [b"0123", b"4567", b"89"]

    run(main())


def test_a_health_check_may_raise_what_it_likes() -> None:
    """A ``check_health`` that raises 9 MB is told of in an answer that fits (F6)."""

    def check() -> None:
        raise RuntimeError("sick" * 9 * MB)

    async def main() -> None:
        checks = Check(check, asyncio.get_running_loop(), UserContext())
        while (told := checks.poll(0.0, 0.0)).failure is None:
            await asyncio.sleep(0.01)
        assert len(told.failure.text) <= MAX_TEXT
        assert len(told.failure.traceback) <= MAX_TEXT

    asyncio.run(main())


def test_large_configurations_and_listings_arrive() -> None:
    """Four backends with a ``user_config`` of 18 MB each: they are made, changed and looked at (RC1)."""

    async def test(world: LinkedWorld) -> None:
        large = b"u" * 18 * MB
        for tag in ("a", "b", "c"):
            await world.carry_out(create(tag, tag, user_config=large), b"code 1", backend=tag)
        await world.carry_out(UpdateBackendConfig("u", "a", {"user_config": None}, large + b"!"), backend="a")
        listed = unpack(await world.driver.command(QueryBackends("q")), BackendList).specs
        assert [spec.config.user_config for spec in listed.values()] == [large + b"!", large, large]
        await world.carry_out(create("d", "d", user_config=large), b"code 1", backend="d")
        with pytest.raises(TooLargeError, match=r"the answer takes 7200\d+ bytes, over the limit of 67108864 bytes"):
            await world.driver.command(QueryBackends("q2"))
        alone = unpack(await world.driver.command(QueryBackends("q3", "d")), BackendList).specs
        assert list(alone) == ["d"]
        status = await world.driver.command(Query("q4"))
        assert len(status) < 10_000
        assert list(unpack(status, Status).backends) == ["a", "b", "c", "d"]

    in_linked_world(test)


def test_a_command_over_the_limit_is_never_sent() -> None:
    """It fails at once, and the connection is as it was (CL5)."""

    async def test(world: LinkedWorld) -> None:
        await world.carry_out(create("p", "b"), b"code 1", backend="b")
        order = UpdateBackendConfig("u", "b", {"user_config": None}, b"u" * (MAX_MESSAGE + 3 * MB))
        with pytest.raises(TooLargeError, match=f"update_backend_config take 7010.* limit of {MAX_MESSAGE} bytes"):
            await world.driver.command(order)
        await world.carry_out(UpdateBackendConfig("v", "b", {"num_replicas": 2}), backend="b")

    in_linked_world(test)


def test_a_command_that_breaks_its_link_is_given_up() -> None:
    """After five connections that broke as it was sent; commands beside it are carried out meanwhile (CL5)."""

    async def test(world: LinkedWorld) -> None:
        poison: Any = UpdateBackendConfig("bad", 5, {})  # type: ignore[arg-type]  # what no controller can read
        given_up = asyncio.ensure_future(world.driver.command(poison))
        beside = [asyncio.ensure_future(world.change(create(tag, tag), b"code 1")) for tag in ("x", "y")]
        with pytest.raises(ServeException, match=f"update_backend_config was given up: {MAX_LOST} times in a row"):
            await given_up
        assert sorted(await asyncio.gather(*beside)) == [1, 2]
        await world.wait(await world.change(create("z", "z"), b"code 1"), "z")

    in_linked_world(test)


def test_a_cancelled_command_makes_way_for_those_behind_it() -> None:
    """Ctrl-C at a command that breaks its link leaves the others to be sent (CL5)."""

    async def test(world: LinkedWorld) -> None:
        poison: Any = UpdateBackendConfig("bad", 5, {})  # type: ignore[arg-type]  # what no controller can read
        interrupted = asyncio.ensure_future(world.driver.command(poison))
        beside = asyncio.ensure_future(world.change(create("x", "x"), b"code 1"))
        await asyncio.sleep(0.01)  # the first link is lost by now
        interrupted.cancel()
        assert await beside == 1
        assert interrupted.cancelled()

    in_linked_world(test)


def test_a_backend_that_takes_too_much_to_describe_is_refused() -> None:
    """Variables of 2 MB are more than a process is started with: the command says so, nothing changes (RM2)."""

    async def test(world: LinkedWorld) -> None:
        variables = {f"X{index}": "v" * 100_000 for index in range(20)}
        order = create("c", "b")
        order = type(order)(
            order.id, order.tag, order.code, order.origin, order.traits, order.config, Resources(env_vars=variables)
        )
        with pytest.raises(
            ValueError, match=r"describes backend 'b', .* takes 200\d+ bytes, over the limit of 1048576"
        ):
            await world.driver.command(order, b"code 1")
        assert world.controller.desired == Desired()

    in_linked_world(test)


def test_a_long_error_of_a_constructor_reaches_the_client_cut() -> None:
    """The backend is taken back with an error of 64 KiB at most, and the status can be read all the while (CB10)."""

    async def test(world: LinkedWorld) -> None:
        world.plan = ReplicaPlan(constructor_error="x" * 9 * MB)
        version = await world.change(create("c", "b"), b"code 1")
        with pytest.raises(ServeException, match="bytes are left out") as caught:
            await world.wait(version, "b")
        assert len(str(caught.value)) <= MAX_TEXT
        assert len(await world.driver.command(Query("q"))) < 4 * MAX_TEXT

    in_linked_world(test)
