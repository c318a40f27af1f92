"""What becomes of the calls on a replica that dies: those that it had started, and those that waited in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pointsman.exceptions import ReplicaDiedError
from pointsman.model import ReplicaConfig
from pointsman.replica.ledger import StartedLedger
from pointsman.replica.runtime import Runtime
from pointsman.routing.call import Call
from pointsman.testing import INSTANCE, MemoryReplica, ScriptedReplica, new_call, replicas, run, settle, table_of
from pointsman.testing.replicas import KEY
from pointsman.wire.auth import ROLE_ROUTER
from pointsman.wire.frames import Kind
from pointsman.wire.started import StartedCalls, StartedReader, path_of
from pointsman.wire.stream import dial
from tests.loop import models
from tests.loop.models import JOURNAL, OPEN
from tests.loop.routers import ids, routed, submitted
from tests.loop.test_runtime import Caller, journal_has


@pytest.fixture(autouse=True)
def fresh_journal() -> Iterator[None]:
    JOURNAL.clear()
    OPEN.clear()
    yield
    OPEN.set()


class NotingReplica(ScriptedReplica):
    """A scripted replica that notes the calls it has started, when the test says that it starts them."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.ref = msgspec.structs.replace(self.ref, address=str(folder / str(self.ref.number)))
        self.file = StartedCalls(path_of(self.ref.address))
        self.listen(self)

    def start(self, *request_ids: str) -> None:
        for call_id, head in self.calls.items():
            if head.request.request_id in request_ids:
                self.file.begin(int(self._streams[call_id].identity), call_id)


async def end_of(call: Call) -> str:
    try:
        return (await call.future).body.decode()  # type: ignore[misc]
    except ReplicaDiedError:
        return "died"


# --- the router -------------------------------------------------------------------------------------------------


def test_only_what_had_started_fails(tmp_path: Path) -> None:
    """A replica dies: calls that only waited in it run elsewhere, POST or not; the one that ran fails (F1, F2, G3)."""

    async def main() -> None:
        dying, other = NotingReplica(tmp_path), NotingReplica(tmp_path)
        async with routed(dying) as router:
            calls = await submitted(router, 5, http_method="POST")
            dying.start("1")
            router.apply(table_of(2, {"b": [dying, other]}))
            dying.die()
            await settle()
            assert ids(other) == ["0", "2", "3", "4"], "they are placed in the order in which they came"
            while other.calls:
                other.reply()
            assert [await end_of(call) for call in calls] == ["ok", "died", "ok", "ok", "ok"]

    run(main())


def test_a_call_that_was_never_started_is_placed_any_number_of_times(tmp_path: Path) -> None:
    """A POST outlives many replicas as long as none of them has begun it, and then fails with the one that has (G3)."""

    async def main() -> None:
        replica = NotingReplica(tmp_path)
        async with routed(replica) as router:
            (call,) = await submitted(router, 1, http_method="POST")
            for version in range(2, 12):
                replica.die()
                replica = NotingReplica(tmp_path)
                router.apply(table_of(version, {"b": [replica]}))
                await settle()
                assert ids(replica) == ["0"]
            replica.start("0")
            replica.die()
            assert await end_of(call) == "died"

    run(main())


def test_waiting_in_a_dead_replica_uses_up_no_try(tmp_path: Path) -> None:
    """A repeatable call is tried twice where it started, however often it only waited (G2)."""

    async def main() -> None:
        replica = NotingReplica(tmp_path)
        async with routed(replica) as router:
            (call,) = await submitted(router, 1, idempotent=True)
            for version, starts in enumerate((False, False, True, False, False, True), 2):
                assert not call.future.done()
                if starts:
                    replica.start("0")
                replica.die()
                replica = NotingReplica(tmp_path)
                router.apply(table_of(version, {"b": [replica]}))
                await settle()
            assert await end_of(call) == "died"
            assert not replica.arrived

    run(main())


def test_what_started_and_may_be_repeated_is_repeated(tmp_path: Path) -> None:
    """A repeatable call that ran when its replica died runs again elsewhere (F1, F2)."""

    async def main() -> None:
        dying, other = NotingReplica(tmp_path), NotingReplica(tmp_path)
        async with routed(dying) as router:
            calls = await submitted(router, 3, idempotent=True)
            dying.start("0", "1")
            router.apply(table_of(2, {"b": [dying, other]}))
            dying.die()
            await settle()
            while other.calls:
                other.reply()
            assert [await end_of(call) for call in calls] == ["ok"] * 3

    run(main())


def test_a_file_that_is_removed_at_once_is_still_read(tmp_path: Path) -> None:
    """The supervisor may clean up before the router sees the end of the connection (F1)."""

    async def main() -> None:
        dying, other = NotingReplica(tmp_path), NotingReplica(tmp_path)
        async with routed(dying) as router:
            calls = await submitted(router, 2, http_method="POST")
            dying.start("0")
            router.apply(table_of(2, {"b": [dying, other]}))
            Path(path_of(dying.ref.address)).unlink()
            dying.die()
            await settle()
            other.reply()
            assert [await end_of(call) for call in calls] == ["died", "ok"]

    run(main())


def test_routers_do_not_mistake_each_others_calls(tmp_path: Path) -> None:
    """Both routers' first calls have the same number; only the one whose call had started loses it (F1)."""

    async def main() -> None:
        dying, other = NotingReplica(tmp_path), NotingReplica(tmp_path)
        async with routed(dying) as one, routed(dying) as two:
            (first,) = await submitted(one, 1, http_method="POST")
            second = new_call(request_id="second", http_method="POST")
            two.submit(second)
            await settle()
            assert len(dying._streams) == 1, "the call ids are equal"
            dying.start("second")
            for router in (one, two):
                router.apply(table_of(2, {"b": [dying, other]}))
            dying.die()
            await settle()
            assert ids(other) == ["0"]
            other.reply()
            assert [await end_of(call) for call in (first, second)] == ["ok", "died"]

    run(main())


def test_a_second_connection_is_asked_about_its_own_calls(tmp_path: Path) -> None:
    """After a cut the same router comes back under another number; what was noted before does not count (F1)."""

    async def main() -> None:
        replica = NotingReplica(tmp_path)
        other = NotingReplica(tmp_path)
        async with routed(replica) as router:
            (before,) = await submitted(router, 1, http_method="POST")
            replica.start("0")
            replica.pipes[-1].cut()
            await settle()
            assert await end_of(before) == "died"
            await asyncio.sleep(1)
            after = new_call(request_id="after", http_method="POST")
            router.submit(after)
            await settle()
            assert ids(replica) == ["0", "after"]
            router.apply(table_of(2, {"b": [replica, other]}))
            replica.die()
            await settle()
            other.reply()
            assert await end_of(after) == "ok"

    run(main())


def test_a_replica_without_a_file_is_taken_at_its_worst() -> None:
    """Where nothing is known every call may have run: a POST fails, a repeatable call is tried again (G3)."""

    async def main() -> None:
        dying, other = ScriptedReplica(), ScriptedReplica()
        async with routed(dying) as router:
            calls = await submitted(router, 2, http_method="POST")
            (repeatable,) = await submitted(router, 1, idempotent=True)
            router.apply(table_of(2, {"b": [dying, other]}))
            dying.die()
            await settle()
            other.reply()
            assert [await end_of(call) for call in (*calls, repeatable)] == ["died", "died", "ok"]

    run(main())


def test_a_call_whose_deadline_has_passed_is_not_sent() -> None:
    """Work that is expired before it is placed is never handed to a replica, where it could start (HE2, F4)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica) as router:
            late = new_call(timeout_s=-1)
            router.submit(late)
            with pytest.raises(TimeoutError):
                await late.future
            await settle()
            assert not replica.arrived

    run(main())


# --- the replica ------------------------------------------------------------------------------------------------


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Makes replicas in memory note what they start, in a file of this path."""
    path = str(tmp_path / "started")
    monkeypatch.setattr(
        replicas,
        "Runtime",
        lambda config, **others: Runtime(config, started=StartedLedger(StartedCalls(path)), **others),
    )
    return path


class Numbered(Caller):
    """A router's end of a connection that has said its number."""

    async def connect(self, replica: MemoryReplica) -> Caller:
        address = replica.ref.address
        self._stream = await dial(address, self, instance=INSTANCE, role=ROLE_ROUTER, identity="7", key=KEY)
        await settle()
        return self


def with_noted(test: Any, code: Any, noted: str, **config: Any) -> None:
    async def main() -> None:
        async with MemoryReplica(code, config=ReplicaConfig(**config)) as replica:
            caller = await Numbered().connect(replica)
            reader = StartedReader(noted)
            try:
                await test(replica, caller, lambda: reader.calls(7))
            finally:
                OPEN.set()
                reader.close()

    run(main())


async def noted_are(started: Any, calls: set[int]) -> None:
    """What is over is struck out a moment after its answer has left."""
    deadline = asyncio.get_running_loop().time() + 1.0
    while started() != calls:
        assert asyncio.get_running_loop().time() < deadline, f"{started()} are noted, not {calls}"
        await asyncio.sleep(0.001)


def test_sync_calls_are_noted_one_by_one(noted: str) -> None:
    """Of three POSTs on a sync replica one has started; the others only wait (F1)."""

    async def test(replica: MemoryReplica, caller: Caller, started: Any) -> None:
        calls = [caller.call(str(number)) for number in range(3)]
        await journal_has("begin 0")
        assert started() == {calls[0]}
        OPEN.set()
        await caller.answers(calls)
        await noted_are(started, set())

    with_noted(test, models.blocks, noted)


def test_async_calls_are_noted_while_they_run(noted: str) -> None:
    """An async call is noted from its first line to its end, cancelled or not (F1, F26)."""

    async def test(replica: MemoryReplica, caller: Caller, started: Any) -> None:
        short, long, cancelled = caller.call("1"), caller.call("5"), caller.call("50")
        await settle()
        assert started() == {short, long, cancelled}
        caller.stream.send(Kind.CANCEL, cancelled)
        await caller.answer(short)
        await noted_are(started, {long})
        await caller.answer(long)
        await noted_are(started, set())

    with_noted(test, models.Slow, noted)


@pytest.mark.parametrize("code", [models.batch_sync, models.batch_async])
def test_members_of_a_running_batch_are_noted(code: Any, noted: str) -> None:
    """A batch of four runs and three more wait: the four have started (F2)."""

    async def test(replica: MemoryReplica, caller: Caller, started: Any) -> None:
        calls = [caller.call(str(number)) for number in range(7)]
        await journal_has("0,1,2,3")
        await settle()
        assert started() == set(calls[:4])
        OPEN.set()
        await caller.answers(calls)
        await noted_are(started, set())

    with_noted(test, code, noted, max_batch_size=4, batch_wait_timeout_s=0.3)


def test_failed_batches_are_struck_out(noted: str) -> None:
    """What ended in an exception has ended (F2)."""

    async def test(replica: MemoryReplica, caller: Caller, started: Any) -> None:
        await caller.answers([caller.call("x") for _ in range(5)])
        await noted_are(started, set())

    with_noted(test, models.batch_badly, noted, max_batch_size=2)


def test_an_answer_that_has_not_left_is_not_over(noted: str) -> None:
    """While an answer is still in the replica, which could die with it, its call counts as started (G3)."""

    async def test(replica: MemoryReplica, caller: Caller, started: Any) -> None:
        (pipe,) = replica.pipes
        line = pipe.back
        line.hold()  # the router does not read: the socket is full, and the rest is in the replica's own buffer
        call = caller.call("x" * (line.high + 1))
        while replica.runtime.load or not line.on_the_way:
            await asyncio.sleep(0.001)
        assert started() == {call}
        line.release()
        await caller.answer(call)
        await settle()
        await noted_are(started, set())

    with_noted(test, models.echo_async, noted)
