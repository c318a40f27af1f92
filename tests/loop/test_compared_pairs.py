"""routing.pairing: the two answers of a copied call come together, and nobody who waits for one notices."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from pointsman.comparing.answers import Answer
from pointsman.engine.comparer import Comparer
from pointsman.incoming import CODEC_OBJECT
from pointsman.model import Comparison, RoutingTable
from pointsman.model.comparison import Exact
from pointsman.routing.call import Call
from pointsman.routing.pairing import BESIDE, Compared, Pairing, Subject
from pointsman.routing.reply import Reply
from pointsman.routing.router import Router
from pointsman.testing import INSTANCE, ScriptedReplica, new_call, run, settle, table_of
from pointsman.wire.pairs import MAX_ANSWER, MAX_WAITING, Began, Ended, Message, Missed, Pair, Sides, Unpacker
from tests.loop.shadowed import order

JSON = [(b"content-type", b"application/json")]


class Taken:
    """Takes pairs as the process beside a router would, and has room for ``room`` bytes."""

    def __init__(self, room: int = MAX_WAITING) -> None:
        self.room = room
        self.held = 0
        self.pairs: list[Pair] = []
        self.reasons: list[tuple[str, Sides]] = []
        self.subjects: list[Subject] = []
        self.forgotten: list[tuple[str, str]] = []

    def hold(self, size: int) -> bool:
        fits = self.held + size <= self.room
        self.held += size if fits else 0
        return fits

    def release(self, size: int) -> None:
        self.held -= size

    def number(self, subject: Subject) -> int:
        if subject not in self.subjects:
            self.subjects.append(subject)
        return self.subjects.index(subject)

    def forget(self, endpoint: str, backend: str) -> None:
        self.forgotten.append((endpoint, backend))

    def compare(self, number: int, size: int, make: Callable[[], Pair]) -> None:
        assert size <= self.held
        pair = make()
        assert number == pair.number
        self.pairs.append(pair)

    def missed(self, number: int, sides: Sides, reason: str) -> None:
        self.reasons.append((reason, sides))

    async def aclose(self) -> None:
        pass


def comparing(version: int, replicas: dict[str, Any], noise: float = 0.0, weights: Any = None) -> RoutingTable:
    """Endpoint ``b``, answered by ``b`` and copied to ``s``, whose answers are compared."""
    made = table_of(
        version,
        {tag: [replica] for tag, replica in replicas.items()},
        endpoints={"b": weights or {"b": 1.0}},
        shadows={"s": 1.0},
    )
    endpoint = made.endpoints["b"]
    policy = msgspec.structs.replace(endpoint.policy, compared={"s": Comparison(Exact(), noise=noise, name="1-a")})
    return msgspec.structs.replace(made, endpoints={"b": msgspec.structs.replace(endpoint, policy=policy, route="/b")})


@contextlib.asynccontextmanager
async def compared(taken: Taken, noise: float = 0.0) -> AsyncIterator[tuple[Router, ScriptedReplica, ScriptedReplica]]:
    replicas = {"b": ScriptedReplica(), "s": ScriptedReplica("s")}
    replicas["s"].ref = msgspec.structs.replace(replicas["s"].ref, version=7)
    router = Router(instance=INSTANCE, draw=lambda: 0.0, pairs=taken)
    router.apply(comparing(1, replicas, noise))
    await settle()
    yield router, replicas["b"], replicas["s"]
    await settle()
    router.validate()
    await router.aclose()
    assert taken.held == 0


def test_both_answers_come_together_whichever_is_first() -> None:
    """A pair has status, type and bytes of both answers, the route, and who has answered in which version (SC2)."""

    async def main() -> None:
        taken = Taken()
        async with compared(taken) as (router, primary, shadow):
            first, second = await submitted(router, 2, http_method="POST")
            primary.reply(body=b"1", headers=JSON)
            shadow.reply(body=b"2", status=201)
            await settle()
            assert (await first.future).body == b"1"
            shadow.reply(body=b"4")
            await settle()
            assert not second.future.done()
            primary.reply(body=b"3", headers=JSON)
            await settle()
            assert (await second.future).body == b"3"
            assert [(pair.primary, pair.shadow) for pair in taken.pairs] == [
                (Answer(200, "application/json", b"1"), Answer(201, "", b"2")),
                (Answer(200, "application/json", b"3"), Answer(200, "", b"4")),
            ]
            assert {(pair.route, pair.sides) for pair in taken.pairs} == {("POST /b", Sides("b", 0, 7))}
            assert [pair.request_id for pair in taken.pairs] == ["0", "1"]
            assert taken.reasons == []

    run(main())


class Asked(NamedTuple):
    """A call, and what its caller waits for."""

    call: Call
    future: asyncio.Future[Reply]


async def submitted(router: Router, count: int = 1, **fields: Any) -> list[Asked]:
    asked = []
    for number in range(count):
        call = new_call(**{"request_id": str(number), **fields})
        assert isinstance(call.future, asyncio.Future)
        asked.append(Asked(call, call.future))
        router.submit(call)
    await settle()
    return asked


def streams(replica: ScriptedReplica, *chunks: bytes) -> Callable[[], None]:
    """Begin a stream, and return what ends it."""
    (call_id,) = replica.calls
    replica.reply(call_id, b"", stream=True)
    for chunk in chunks:
        replica.chunk(call_id, chunk)
    return lambda: replica.end(call_id)


def test_streams_are_compared_whole() -> None:
    """Streamed answers are compared as a whole, while the user reads them as they come (SC10)."""

    async def main() -> None:
        taken = Taken()
        async with compared(taken) as (router, primary, shadow):
            (call,) = await submitted(router)
            ends = [streams(primary, b"a", b"bc"), streams(shadow, b"ab", b"d")]
            await settle()
            assert taken.held == 6 + 2 * BESIDE
            stream = (await call.future).stream
            assert stream is not None
            for end in ends:
                end()
            await settle()
            assert b"".join([bytes(chunk) async for chunk in stream]) == b"abc"
            (pair,) = taken.pairs
            assert (pair.primary.body, pair.shadow.body) == (b"abc", b"abd")

    run(main())


def test_a_stream_is_compared_with_each_of_its_copies() -> None:
    """A streamed answer is compared with the shadow's and with that of the second copy, and holds no memory afterwards
    (SC5, SC10)."""

    async def main() -> None:
        taken = Taken()
        async with compared(taken, noise=1.0) as (router, primary, shadow):
            (call,) = await submitted(router)
            ends = [streams(shadow, b"abd")]
            for call_id in list(primary.calls):
                primary.reply(call_id, b"", stream=True)
                primary.chunk(call_id, b"abc")
                ends.append(partial(primary.end, call_id))
            await settle()
            assert (await call.future).stream is not None
            for end in ends:
                end()
            await settle()
            found = {pair.sides.noise: (pair.primary.body, pair.shadow.body) for pair in taken.pairs}
            assert found == {False: (b"abc", b"abd"), True: (b"abc", b"abc")}

    run(main())


def test_a_stream_that_breaks_off_is_an_error_of_the_shadow() -> None:
    """The shadow's stream was cut: its answer is an error (SC4)."""

    async def main() -> None:
        taken = Taken()
        async with compared(taken) as (router, primary, shadow):
            await submitted(router)
            primary.reply(body=b"ab")
            streams(shadow, b"ab")
            await settle()
            shadow.die()
            await settle()
            (pair,) = taken.pairs
            assert pair.shadow == Answer(200, "", b"ab", "StreamBroken")

    run(main())


def test_failures_are_answers_with_their_status() -> None:
    """User code that raises has answered 500, and a replica that dies 502, on either side (SC4)."""

    async def main() -> None:
        taken = Taken()
        async with compared(taken) as (router, primary, shadow):
            (first,) = await submitted(router)
            primary.reply(body=b"fine")
            shadow.fail()
            await settle()
            (second,) = await submitted(router)
            primary.fail()
            shadow.die()
            await settle()
            assert (await first.future).body == b"fine"
            with pytest.raises(Exception, match="no"):
                await second.future
            assert [(pair.primary.status, pair.shadow.status) for pair in taken.pairs] == [(200, 500), (500, 502)]
            assert [pair.shadow.failed for pair in taken.pairs] == [True, True]

    run(main())


def test_what_says_nothing_about_the_shadow_is_not_compared() -> None:
    """A client that leaves, and a copy that finds no free replica in time, are no mismatches (SC4)."""

    async def main() -> None:
        taken = Taken()
        async with compared(taken) as (router, primary, shadow):
            (left,) = await submitted(router)
            router.cancel(left.call)
            shadow.reply()
            await settle()
            assert [reason for reason, _ in taken.reasons] == ["no_answer"]
            shadow.die()
            await settle()
            (call,) = await submitted(router, timeout_s=3)
            primary.reply(max(primary.calls), b"fine")
            assert (await call.future).body == b"fine"
            await asyncio.sleep(4)
            assert [reason for reason, _ in taken.reasons] == ["no_answer", "not_run"]
            assert taken.pairs == []

    run(main())


@pytest.mark.parametrize("streamed", [False, True])
def test_answers_over_a_mebibyte_are_not_compared(streamed: bool) -> None:
    """An answer over 1 MiB is counted as too large, is not kept, and reaches the user whole (SC10)."""

    async def main() -> None:
        taken = Taken()
        async with compared(taken) as (router, primary, shadow):
            (call,) = await submitted(router)
            body = b"x" * (MAX_ANSWER + 1)
            if streamed:
                end = streams(primary, body[:-1], body[-1:])
                end()
            else:
                primary.reply(body=body)
            await settle()
            reply = await call.future
            got = b"".join([bytes(c) async for c in reply.stream]) if reply.stream is not None else reply.body
            assert got == body
            shadow.reply()
            await settle()
            assert (taken.pairs, taken.held) == ([], 0)
            assert taken.reasons == [("too_large", Sides("b", 0, 7))]

    run(main())


def test_small_answers_need_room_too(tmp_path: Path) -> None:
    """While the process that compares stands still, also answers without a body wait in bounded memory (SC10)."""

    async def main() -> None:
        comparer, missed = Comparer(tmp_path), Taken()
        comparer._start = lambda: False  # type: ignore[method-assign]
        comparer.missed = missed.missed  # type: ignore[method-assign]
        answered = Reply(200, [], b"")
        subject = Compared(comparer, Subject("b", "s", Comparison(Exact(), name="1-a")), "/b", lambda tag: 1)
        for _ in range(MAX_WAITING // BESIDE // 2 + 3):
            pairing = Pairing(subject, new_call())
            for shadow in (False, True):
                pairing.answered(None, answered, shadow=shadow)
        assert [reason for reason, _ in missed.reasons] == ["no_room"] * 3
        await comparer.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("body", [b"123456", b"1" * 2000])
def test_without_room_answers_are_not_compared(body: bytes) -> None:
    """Where too many bytes wait, pairs are counted as not compared, and users are answered (SC10)."""

    async def main() -> None:
        taken = Taken(room=2 * BESIDE + len(body) + 4)
        async with compared(taken) as (router, primary, shadow):
            calls = await submitted(router, 2)
            primary.reply(body=body)
            primary.reply(body=body)
            await settle()
            assert [(await call.future).body for call in calls] == [body] * 2
            assert [reason for reason, _ in taken.reasons] == ["no_room"]
            shadow.reply(body=b"1234")
            shadow.reply(body=b"1234")
            await settle()
            assert [pair.request_id for pair in taken.pairs] == ["0"]

    run(main())


def test_second_copies_go_to_the_backend_that_answers() -> None:
    """Of compared copies a share goes to the user's own backend too, marked as copies, and is compared alike (SC5)."""

    async def main() -> None:
        taken = Taken()
        async with compared(taken, noise=0.5) as (router, primary, shadow):
            (call,) = await submitted(router)
            assert (order(primary), order(shadow)) == (["0", "0'"], ["0'"])
            primary.reply(body=b"mine")
            primary.reply(body=b"mine again")
            shadow.reply(body=b"other")
            await settle()
            assert (await call.future).body == b"mine"
            assert {(pair.sides.noise, pair.primary.body, pair.shadow.body) for pair in taken.pairs} == {
                (True, b"mine", b"mine again"),
                (False, b"mine", b"other"),
            }
            assert [shadow.backend for shadow in router.shadow_statistics()] == ["s"]

    run(main())


def test_a_backend_is_not_compared_with_itself() -> None:
    """While the shadow's backend also answers users, those calls are not compared (SC6)."""

    async def main() -> None:
        taken = Taken()
        async with compared(taken, noise=1.0) as (router, _, shadow):
            replicas = {"b": ScriptedReplica(), "s": shadow}
            router.apply(comparing(2, replicas, 1.0, weights={"s": 1.0}))
            await settle()
            (call,) = await submitted(router)
            shadow.reply(body=b"1")
            shadow.reply(body=b"2")
            await settle()
            assert (await call.future).body == b"1"
            assert (taken.pairs, taken.reasons) == ([], [("same_backend", Sides("s", 7, 7))])

    run(main())


def test_answers_of_handles_come_as_pickles() -> None:
    """Calls from Python are compared as well; what they are is known only where nothing of users is imported (SC2)."""

    async def main() -> None:
        taken = Taken()
        async with compared(taken) as (router, primary, shadow):
            await submitted(router, codec=CODEC_OBJECT, method_name="predict", body=pickle.dumps(((), {})))
            primary.reply(body=pickle.dumps({"a": 1}))
            shadow.reply(body=pickle.dumps({"a": 2}))
            await settle()
            (pair,) = taken.pairs
            assert (pair.pickled, pair.route) == (True, "handle.predict")

    run(main())


def test_too_many_copies_are_counted_as_dropped() -> None:
    """A copy that is dropped since too many are under way has no pair, and is counted so (SC6)."""

    async def main() -> None:
        taken = Taken()
        async with compared(taken) as (router, primary, shadow):
            await submitted(router, 101)
            assert [reason for reason, _ in taken.reasons] == ["dropped"]
            for replica in (primary, shadow):
                for call_id in list(replica.calls):
                    replica.reply(call_id)
            await settle()
            assert len(taken.pairs) == 100

    run(main())


def test_a_shadow_that_ends_is_compared_no_more() -> None:
    """Whoever takes a shadow away, or deletes its endpoint, leaves nothing behind in any process (SC12)."""

    async def main() -> None:
        taken = Taken()
        async with compared(taken) as (router, primary, shadow):
            replicas: dict[str, Any] = {"b": primary, "s": shadow}
            router.apply(comparing(3, replicas, noise=0.5))
            assert taken.forgotten == []
            made = table_of(4, {tag: [replica] for tag, replica in replicas.items()}, endpoints={"b": {"b": 1.0}})
            router.apply(made)
            assert taken.forgotten == [("b", "s")]
            router.apply(comparing(5, replicas))
            router.apply(msgspec.structs.replace(made, version=6, endpoints={}))
            assert taken.forgotten == [("b", "s")] * 2

    run(main())


def test_a_router_tells_the_comparer_that_a_comparison_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shadows that are compared, one after the other, leave nothing behind in the process that compares (SC12)."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        comparer, unpacker = Comparer(tmp_path), Unpacker()
        monkeypatch.setattr(comparer, "_start", lambda: setattr(comparer, "_socket", ours) or True)

        async def told(count: int) -> list[Message]:
            messages: list[Message] = []
            while len(messages) < count:
                messages += unpacker.feed(await asyncio.get_running_loop().sock_recv(theirs, 65536))
            return messages

        for number in range(1, 4):
            sides = Sides("b", 1, 1)
            assert comparer.number(Subject("b", f"s{number}", Comparison(Exact(), name=str(number)))) == number
            comparer.missed(number, sides, "dropped")
            assert [type(message) for message in await told(2)] == [Began, Missed]
            comparer.forget("b", f"s{number}")
            assert await told(1) == [Ended(number)]
            comparer.missed(number, sides, "dropped")  # it was on its way
        comparer._flush()
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
        monkeypatch.setattr("pointsman.engine.comparer.FLUSH_BYTES", 10)
        comparer.number(Subject("b", "s4", Comparison(Exact(), name="4")))
        same = Answer(200)
        for _ in range(3):
            comparer.compare(4, 0, lambda: Pair(4, sides, "GET /b", "id", False, same, same, 0.1, 0.1))
        comparer._flush()
        comparer.forget("b", "s4")  # behind pairs that are written one by one
        assert [type(message) for message in await told(5)] == [Began, Pair, Pair, Pair, Ended]
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
        assert (comparer._subjects, comparer._numbers, comparer._announced) == ({}, {}, set())
        ours.close()
        theirs.close()

    asyncio.run(main())
