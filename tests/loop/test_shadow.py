"""routing.shadow: copies of calls do all of a shadow's work, and users never notice."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import pickle
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from pointsman.exceptions import BackpressureError, UserCodeError
from pointsman.model import Reason, RoutingTable
from pointsman.routing.call import Call
from pointsman.routing.pool import PoolStatistics
from pointsman.routing.router import Router
from pointsman.routing.shadow import MAX_IN_FLIGHT, ShadowStatistics
from pointsman.testing import INSTANCE, MemoryReplica, ScriptedReplica, new_call, run, settle, table_of
from pointsman.wire.messages import CODEC_OBJECT, CallHead
from tests.loop.models import echo_async

MARK = (b"x-serve-shadow", b"1")
SEEN: list[tuple[bytes, str | None]] = []
"""Bodies that shadows got, and what the mark says; emptied before each test."""


async def record(request: Any) -> str:
    SEEN.append((await request.body(), request.headers.get("x-serve-shadow")))
    return "the shadow's answer"


async def fail(request: Any) -> str:
    raise ValueError("the shadow's trouble")


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    SEEN.clear()


@contextlib.asynccontextmanager
async def shadowed(primary: Any, shadow: Any, *, proportion: float = 1.0, **options: Any) -> AsyncIterator[Router]:
    """A router with endpoint ``b``, answered by ``primary`` and copied to ``shadow``."""
    router = Router(instance=INSTANCE, draw=lambda: 0.0)
    router.apply(table(1, primary, shadow, proportion, **options))
    await settle()
    yield router
    await settle()
    router.validate()
    await router.aclose()


def table(version: int, primary: Any, shadow: Any, proportion: float, **options: Any) -> RoutingTable:
    backends = {"b": [primary], "s": [shadow] if shadow else []}
    shadows = {"s": proportion} if proportion else {}
    return table_of(version, backends, endpoints={"b": {"b": 1.0}}, shadows=shadows, **options)


async def submitted(router: Router, count: int = 1, **fields: Any) -> list[Call]:
    calls = [new_call(**{"request_id": str(number), **fields}) for number in range(count)]
    for call in calls:
        router.submit(call)
    await settle()
    return calls


def counts(router: Router, backend: str = "s") -> dict[str, int]:
    """What the router says of a shadow, less what is 0."""
    (found,) = [shadow for shadow in router.shadow_statistics() if shadow.backend == backend]
    fields = msgspec.structs.asdict(found)
    return {name: value for name, value in fields.items() if isinstance(value, int) and value}


def pool(router: Router, backend: str) -> PoolStatistics:
    (found,) = [statistics for statistics in router.statistics() if statistics.backend == backend]
    return found


def order(replica: ScriptedReplica) -> list[str]:
    """Request ids in order of arrival, of copies with a tick."""
    return [head.request_id + "'" * (MARK in head.headers) for head in replica.arrived]


# --- what a copy is -------------------------------------------------------------------------------------------


def test_a_shadow_gets_a_marked_copy_and_users_the_primary_s_answer() -> None:
    """Users see the primary's answers only; the shadow does all of its work on the same bytes (SH1, SH4)."""

    async def main() -> None:
        async with (
            MemoryReplica(echo_async) as primary,
            MemoryReplica(record, backend="s") as shadow,
            shadowed(primary, shadow) as router,
        ):
            calls = [new_call(body=b"%d" % number) for number in range(20)]
            for call in calls:
                router.submit(call)
            assert [(await call.future).body for call in calls] == [b"%d" % number for number in range(20)]
            await settle()
            assert sorted(SEEN) == sorted((b"%d" % number, "1") for number in range(20))
            assert router.shadow_statistics() == [ShadowStatistics("b", "s", 0, 20, 0, 0)]

    run(main())


@pytest.mark.parametrize("codec", [0, CODEC_OBJECT])
def test_a_copy_is_like_the_call_but_for_the_mark(codec: int) -> None:
    """A copy has the call's method, path, query, headers, deadline and id, over HTTP and through handles (SH4, TR8)."""

    async def main() -> None:
        primary, shadow = ScriptedReplica(), ScriptedReplica("s")
        async with shadowed(primary, shadow) as router:
            headers = [(b"x-user", b"alice"), (b"x-request-id", b"7")]
            (call,) = await submitted(
                router,
                codec=codec,
                method_name="predict",
                http_method="POST",
                path=b"/a%20b",
                query=b"c=d",
                headers=headers,
                path_params={"id": "5"},
                client=("10.0.0.1", 80),
                body=pickle.dumps({"a": 1}),
                shard_key="alice",
                idempotent=True,
                timeout_s=30,
            )
            (original,), (copy,) = primary.arrived, shadow.arrived
            assert copy == msgspec.structs.replace(original, headers=[*original.headers, MARK], shadow=True)
            assert original.headers == headers == call.headers
            primary.reply(body=b"the primary's")
            assert (await call.future).body == b"the primary's"

    run(main())


def test_a_shadow_s_error_through_a_handle_stays_there() -> None:
    """An exception that a shadow sends back to a Python caller is counted, and not raised anywhere (SH4, TR8)."""

    async def main() -> None:
        async with (
            MemoryReplica(echo_async) as primary,
            MemoryReplica(fail, backend="s") as shadow,
            shadowed(primary, shadow) as router,
        ):
            (call,) = await submitted(router, codec=CODEC_OBJECT, body=pickle.dumps(("hello", {})))
            assert pickle.loads((await call.future).body) == "hello"
            assert counts(router) == {"failed": 1}

    run(main())


class Hostile(Exception):
    """Cannot be shown, and does harm where it is unpacked."""

    unpacked = 0

    def __init__(self) -> None:
        Hostile.unpacked += 1

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


async def raise_hostile(request: Any) -> None:
    raise Hostile


def test_a_shadow_s_exception_is_not_unpacked(caplog: pytest.LogCaptureFixture) -> None:
    """A shadow's exception class runs no code in my process, and its next copies go on over the connection (SH4)."""

    async def main() -> None:
        async with (
            MemoryReplica(echo_async) as primary,
            MemoryReplica(raise_hostile, backend="s") as shadow,
            shadowed(primary, shadow) as router,
        ):
            for number in range(1, 4):
                (call,) = await submitted(router, codec=CODEC_OBJECT, body=pickle.dumps(("hello", {})))
                assert pickle.loads((await call.future).body) == "hello"
                assert counts(router) == {"failed": number}
                assert Hostile.unpacked == number  # where it was raised
            assert "Hostile" in caplog.text

    run(main())


# --- how many -------------------------------------------------------------------------------------------------


def test_one_draw_per_call_and_shadow() -> None:
    """The draw that chose the primary, or a shadow, says nothing about the next one, with a key or without (SH8)."""

    async def main() -> None:
        draws = [
            *(0.9, 0.1, 0.9),  # b, to s only
            *(0.1, 0.9, 0.1),  # a, to t only
            *(0.1, 0.1, 0.1),  # a, to both
            *(0.9, 0.5, 0.5),  # b, to neither: 0.5 is not below 0.5
        ]
        given = iter(draws * 2)
        replicas = {tag: ScriptedReplica(tag) for tag in "abst"}
        router = Router(instance=INSTANCE, draw=lambda: next(given))
        split = {"e": {"a": 0.5, "b": 0.5}}
        shadows = {"s": 0.5, "t": 0.5}
        router.apply(table_of(1, {tag: [r] for tag, r in replicas.items()}, endpoints=split, shadows=shadows))
        await settle()
        for number in range(8):
            router.submit(new_call("e", request_id=str(number), shard_key="alice" if number > 3 else None))
        await settle()
        assert order(replicas["s"]) == ["0'", "2'", "4'", "6'"]
        assert order(replicas["t"]) == ["1'", "2'", "5'", "6'"]
        assert [name for name in order(replicas["a"]) + order(replicas["b"]) if name < "4"] == ["1", "2", "0", "3"]
        assert next(given, None) is None
        await router.aclose()

    run(main())


def test_shadows_get_their_proportions() -> None:
    """1,000 requests with shadows at 1.0, 0.5 and 0.1, whoever the primary was: all, and within 3 sigma (SH1, SH8)."""

    async def main() -> None:
        proportions = {"all": 1.0, "half": 0.5, "tenth": 0.1}
        copies: Counter[tuple[str, str]] = Counter()
        async with contextlib.AsyncExitStack() as stack:
            replicas = {tag: ScriptedReplica(tag) for tag in ("a", "b", *proportions)}
            router = Router(instance=INSTANCE, draw=random.Random(3).random)
            stack.push_async_callback(router.aclose)
            endpoints = {"e": {"a": 0.5, "b": 0.5}}
            backends = {tag: [replica] for tag, replica in replicas.items()}
            router.apply(table_of(1, backends, endpoints=endpoints, shadows=proportions))
            await settle()
            for start in range(0, 1000, 50):
                for number in range(start, start + 50):
                    router.submit(new_call("e", request_id=str(number)))
                await settle()
                for replica in replicas.values():
                    while replica.calls:
                        replica.reply()
                await settle()
        primary = {head.request_id: tag for tag in ("a", "b") for head in replicas[tag].arrived}
        assert len(primary) == 1000
        for tag in proportions:
            copies.update((tag, primary[head.request_id]) for head in replicas[tag].arrived)
        of = Counter(primary.values())
        for tag, proportion in proportions.items():
            for who in ("a", "b"):
                slack = 3 * math.sqrt(of[who] * proportion * (1 - proportion))
                assert abs(copies[tag, who] - of[who] * proportion) <= slack

    run(main())


@pytest.mark.parametrize(("draw", "copied"), [(0.0, True), (0.4999, True), (0.5, False), (0.99, False)])
def test_the_proportion_is_a_probability(draw: float, copied: bool) -> None:
    """A draw below the proportion makes a copy, any other none (SH1)."""

    async def main() -> None:
        primary, shadow = ScriptedReplica(), ScriptedReplica("s")
        async with shadowed(primary, shadow, proportion=0.5) as router:
            router._draw = lambda: draw
            await submitted(router)
            assert (len(primary.arrived), len(shadow.arrived)) == (1, int(copied))

    run(main())


def test_too_many_copies_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """At most 100 copies are under way per shadow; the rest is dropped, counted, and told of once a second (SH9)."""

    async def main() -> None:
        shadow = ScriptedReplica("s")
        async with MemoryReplica(echo_async) as primary, shadowed(primary, shadow) as router:
            calls = await submitted(router, 130)
            assert all(call.future.done() for call in calls)
            assert counts(router) == {"inflight": 100, "dropped": 30}
            for _ in range(10):
                shadow.reply()
            await settle()
            assert counts(router) == {"inflight": 90, "answered": 10, "dropped": 30}
            await submitted(router, 15)
            assert counts(router) == {"inflight": 100, "answered": 10, "dropped": 35}
            assert len(shadow.arrived) == 110
            assert len(caplog.records) == 1
            await asyncio.sleep(1)
            await submitted(router, 5)
            assert len(caplog.records) == 2
            assert "shadow 's' of endpoint 'b' is too slow: 100 copies are under way" in caplog.text

    with caplog.at_level(logging.WARNING, "pointsman.routing.shadow"):
        run(main())


def test_large_copies_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shadow that hangs on large pictures does not fill the memory of the server that users' requests go through; one
    picture larger than all that may wait is copied when it is alone (SH4, SH9, G9)."""
    monkeypatch.setattr("pointsman.routing.shadow.MAX_BYTES_IN_FLIGHT", 1000)

    async def main() -> None:
        shadow = ScriptedReplica("s")
        async with MemoryReplica(echo_async) as primary, shadowed(primary, shadow) as router:
            calls = await submitted(router, 3, body=b"x" * 400)
            assert all(call.future.done() for call in calls)
            assert counts(router) == {"inflight": 2, "dropped": 1}
            await submitted(router, 3, body=b"x" * 100)
            assert counts(router) == {"inflight": 4, "dropped": 2}
            shadow.reply(1, b"")
            shadow.reply(2, b"", stream=True)
            await settle()
            await submitted(router, 1, body=b"x" * 401)
            assert counts(router) == {"inflight": 3, "answered": 1, "dropped": 3}
            shadow.end(2)
            for _ in range(2):
                shadow.fail()
            await settle()
            assert counts(router) == {"answered": 2, "failed": 2, "dropped": 3}
            await submitted(router, 2, body=b"x" * 1001)
            assert counts(router) == {"inflight": 1, "answered": 2, "failed": 2, "dropped": 4}

    run(main())


def test_each_shadow_and_endpoint_has_a_limit_of_its_own() -> None:
    """One shadow that is full takes nothing from another one, nor from the same one under another endpoint (SH9)."""

    async def main() -> None:
        router = Router(instance=INSTANCE, draw=lambda: 0.0)
        endpoints = {"e": {"b": 1.0}, "f": {"b": 1.0}}
        hung, quick = ScriptedReplica("s"), ScriptedReplica("t")
        async with MemoryReplica(echo_async) as primary:
            backends: dict[str, Any] = {"b": [primary], "s": [hung], "t": [quick]}
            router.apply(table_of(1, backends, endpoints=endpoints, shadows={"s": 1.0, "t": 1.0}))
            await settle()
            for endpoint in ("e", "f"):
                for _ in range(2):
                    for _ in range(80):
                        router.submit(new_call(endpoint))
                    await settle()
                    while quick.calls:
                        quick.reply()
                    await settle()
            assert sorted(map(msgspec.structs.astuple, router.shadow_statistics())) == [
                ("e", "s", 100, 0, 0, 60),
                ("e", "t", 0, 160, 0, 0),
                ("f", "s", 100, 0, 0, 60),
                ("f", "t", 0, 160, 0, 0),
            ]
            router.validate()
            await router.aclose()

    run(main())


# --- what it cannot do to users -------------------------------------------------------------------------------


@pytest.mark.parametrize("there", [True, False], ids=["hung", "no replica"])
def test_a_shadow_that_hangs_delays_nobody(there: bool) -> None:
    """However long a shadow hangs, users are answered at once, and nothing waits in their queue (SH4, SH9)."""

    async def main() -> None:
        shadow = ScriptedReplica("s") if there else None
        options: dict[str, Any] = {"max_concurrent_queries": 1, "max_queued_queries": 1}
        async with MemoryReplica(echo_async) as primary, shadowed(primary, shadow, **options) as router:
            began = asyncio.get_running_loop().time()
            for _ in range(150):
                (call,) = await submitted(router, timeout_s=1e6)
                assert call.future.done()
            assert asyncio.get_running_loop().time() == began
            assert counts(router) == {"inflight": MAX_IN_FLIGHT, "dropped": 50}
            assert (pool(router, "b").waiting, pool(router, "b").shadows_waiting) == (0, 0)
            assert (pool(router, "s").waiting, pool(router, "s").shadows_waiting) == (0, 100 - there)
            assert not router.would_wait("b")

    run(main())


def dies(shadow: ScriptedReplica) -> None:
    shadow.die()


def fails(shadow: ScriptedReplica) -> None:
    shadow.fail()


def is_silent(shadow: ScriptedReplica) -> None:
    pass


def drains(shadow: ScriptedReplica) -> None:
    shadow.refuse(reason=Reason.DRAINING)


def breaks_a_stream(shadow: ScriptedReplica) -> None:
    shadow.reply(1, b"", stream=True)
    shadow.chunk(1, b"one")
    shadow.fail(1)


def dies_in_a_stream(shadow: ScriptedReplica) -> None:
    shadow.reply(1, b"", stream=True)
    shadow.chunk(1, b"one")
    shadow.die()


def streams_for_ever(shadow: ScriptedReplica) -> None:
    shadow.reply(1, b"", stream=True)
    shadow.chunk(1, b"one")


@pytest.mark.parametrize(
    "happens", [dies, fails, is_silent, drains, breaks_a_stream, dies_in_a_stream, streams_for_ever]
)
def test_a_shadow_s_troubles_are_its_own(happens: Callable[[ScriptedReplica], None]) -> None:
    """Whatever happens to a shadow, at its deadline it is counted as failed, once, and users know nothing (SH4)."""

    async def main() -> None:
        primary, shadow = ScriptedReplica(), ScriptedReplica("s")
        async with shadowed(primary, shadow) as router:
            (call,) = await submitted(router, timeout_s=10, idempotent=True)
            happens(shadow)
            await settle()
            assert not call.future.done()
            primary.reply(body=b"well")
            assert (await call.future).body == b"well"
            await asyncio.sleep(11)
            assert counts(router) == {"failed": 1}
            assert len(shadow.arrived) == 1
            assert pool(router, "s").inflight == pool(router, "s").shadows_waiting == 0
            assert primary.cancelled == []

    run(main())


def test_a_shadow_that_misses_the_deadline_is_told_to_stop() -> None:
    """A copy does not run longer than the call may, and its replica hears of it, streaming or not (SH9)."""

    async def main() -> None:
        primary, shadow = ScriptedReplica(), ScriptedReplica("s")
        async with shadowed(primary, shadow) as router:
            await submitted(router, 2, timeout_s=10)
            shadow.reply(2, b"", stream=True)
            await asyncio.sleep(9.9)
            assert (shadow.cancelled, counts(router)) == ([], {"inflight": 2})
            await asyncio.sleep(0.2)
            assert sorted(shadow.cancelled) == [1, 2]
            assert counts(router) == {"failed": 2}

    run(main())


def test_a_full_shadow_is_asked_again() -> None:
    """A copy that a busy replica sent back waits, and is answered when there is room (SH4)."""

    async def main() -> None:
        primary, shadow = ScriptedReplica(), ScriptedReplica("s")
        async with shadowed(primary, shadow) as router:
            (call,) = await submitted(router)
            for _ in range(5):
                shadow.refuse()
                await asyncio.sleep(0.01)
            primary.reply()
            assert (await call.future).status == 200
            assert counts(router) == {"inflight": 1}
            shadow.reply()
            await settle()
            assert counts(router) == {"answered": 1}

    run(main())


def test_users_errors_are_their_own_too() -> None:
    """A request whose primary fails gets that failure, though its shadow could answer (SH4)."""

    async def main() -> None:
        primary, shadow = ScriptedReplica(), ScriptedReplica("s")
        async with shadowed(primary, shadow) as router:
            (call,) = await submitted(router)
            shadow.reply(body=b"fine")
            primary.fail(text="bad")
            with pytest.raises(UserCodeError, match="bad"):
                await call.future
            assert counts(router) == {"answered": 1}

    run(main())


def test_a_refused_call_has_no_copy() -> None:
    """A request that was turned away because too many wait is no work for the shadow either (SH4)."""

    async def main() -> None:
        primary, shadow = ScriptedReplica(), ScriptedReplica("s")
        async with shadowed(primary, shadow, max_concurrent_queries=1, max_queued_queries=1) as router:
            await submitted(router, 2)
            for _ in range(3):
                with pytest.raises(BackpressureError):
                    router.submit(new_call())
            await settle()
            assert counts(router) == {"inflight": 2}

    run(main())


def test_a_user_who_leaves_does_not_end_the_copy() -> None:
    """A copy is detached: it goes on when its request is cancelled, running or waiting (SH9)."""

    async def main() -> None:
        primary, shadow = ScriptedReplica(), ScriptedReplica("s")
        async with shadowed(primary, shadow, max_concurrent_queries=1) as router:
            running, waiting = await submitted(router, 2)
            router.cancel(waiting)
            router.cancel(running)
            await settle()
            assert (primary.cancelled, shadow.cancelled) == ([1], [])
            shadow.reply()
            await settle()
            shadow.reply()
            await settle()
            assert counts(router) == {"answered": 2}

    run(main())


def test_an_early_call_is_copied_once_when_it_is_placed() -> None:
    """A call that waited for its endpoint has a copy from then on, and one only (SH8)."""

    async def main() -> None:
        primary, shadow = ScriptedReplica(), ScriptedReplica("s")
        router = Router(instance=INSTANCE, draw=lambda: 0.0)
        router.submit_when_there(new_call(timeout_s=100))
        await asyncio.sleep(5)
        router.apply(table(1, primary, shadow, 1.0))
        await settle()
        assert (len(primary.arrived), len(shadow.arrived)) == (1, 1)
        router.validate()
        await router.aclose()

    run(main())


# --- streams --------------------------------------------------------------------------------------------------


def test_a_streamed_answer_is_read_to_its_end() -> None:
    """A shadow streams all it would have streamed to a user; only then is its copy over (SH4, SH9)."""

    async def main() -> None:
        primary, shadow = ScriptedReplica(), ScriptedReplica("s")
        async with shadowed(primary, shadow) as router:
            await submitted(router)
            shadow.reply(1, b"", stream=True)
            for number in range(40):
                shadow.chunk(1, b"%d" % number)
                await settle()
            assert shadow.credits == 40
            assert counts(router) == {"inflight": 1}
            shadow.end(1)
            await settle()
            assert counts(router) == {"answered": 1}
            assert shadow.cancelled == []
            assert pool(router, "s").inflight == 0

    run(main())


def test_streaming_copies_count_as_under_way() -> None:
    """A hundred copies that stream leave no room for another; when one has ended there is (SH9)."""

    async def main() -> None:
        shadow = ScriptedReplica("s")
        async with MemoryReplica(echo_async) as primary, shadowed(primary, shadow) as router:
            await submitted(router, 100)
            for call_id in list(shadow.calls):
                shadow.reply(call_id, b"", stream=True)
            await submitted(router, 1)
            assert counts(router) == {"inflight": 100, "dropped": 1}
            shadow.end(7)
            await settle()
            await submitted(router, 1)
            assert counts(router) == {"inflight": 100, "dropped": 1, "answered": 1}

    run(main())


# --- one backend in two roles ---------------------------------------------------------------------------------


def test_users_go_before_copies() -> None:
    """Where primary and shadow are one backend, users who come later overtake the copies that wait (SH10, SH9)."""

    async def main() -> None:
        replica = ScriptedReplica()
        router = Router(instance=INSTANCE, draw=lambda: 0.0)
        router.apply(table_of(1, {"b": [replica]}, shadows={"b": 1.0}, max_concurrent_queries=1))
        await settle()
        await submitted(router, 2)
        for arrived in (["0"], ["0", "1"], ["0", "1", "0'"]):
            assert order(replica) == arrived
            replica.reply()
            await settle()
        router.submit(new_call(request_id="2"))
        await settle()
        assert (pool(router, "b").waiting, pool(router, "b").shadows_waiting) == (1, 1)
        while replica.calls:
            replica.reply()
            await settle()
        assert order(replica) == ["0", "1", "0'", "1'", "2", "2'"]
        assert counts(router, "b") == {"answered": 3}
        router.validate()
        await router.aclose()

    run(main())


def test_users_who_wait_for_room_go_before_copies() -> None:
    """With no queue at all, a handle's call that waits for room is still placed before any copy (SH10, HA9)."""

    async def main() -> None:
        replica = ScriptedReplica()
        router = Router(instance=INSTANCE, draw=lambda: 0.0)
        backends = {"b": [replica]}
        router.apply(table_of(1, backends, shadows={"b": 1.0}, max_concurrent_queries=1, max_queued_queries=0))
        await settle()
        await submitted(router, 3, waits_for_room=True)
        while replica.calls:
            replica.reply()
            await settle()
        assert order(replica) == ["0", "1", "2", "0'", "1'", "2'"]
        router.validate()
        await router.aclose()

    run(main())


def test_users_of_another_endpoint_go_before_copies() -> None:
    """A shadow that serves users of its own serves them first, however many copies wait; all are done in the end."""

    async def main() -> None:
        primary, busy = ScriptedReplica(), ScriptedReplica("s")
        router = Router(instance=INSTANCE, draw=lambda: 0.0)
        plain = table_of(1, {"b": [primary], "s": [busy]}, max_concurrent_queries=1, max_queued_queries=5)
        copied = table_of(1, {"b": [primary], "s": [busy]}, shadows={"s": 1.0})
        endpoints = {"b": copied.endpoints["b"], "s": plain.endpoints["s"]}
        router.apply(msgspec.structs.replace(plain, endpoints=endpoints))
        await settle()
        for number in range(5):
            router.submit(new_call("b", request_id=str(number)))
        await settle()
        for number in range(5):
            router.submit(new_call("s", request_id=f"user {number}"))
        router.submit(new_call("s", request_id="user 5", waits_for_room=True))
        while busy.calls:
            busy.reply()
            await settle()
        users = [f"user {number}" for number in range(6)]
        assert order(busy) == ["0'", *users, "1'", "2'", "3'", "4'"]
        router.validate()
        await router.aclose()

    run(main())


def test_a_refused_copy_goes_behind_users_again() -> None:
    """A copy that was sent back is first among copies, and still behind everybody else (SH10)."""

    async def main() -> None:
        replica = ScriptedReplica()
        router = Router(instance=INSTANCE, draw=lambda: 0.0)
        router.apply(table_of(1, {"b": [replica]}, shadows={"b": 1.0}, max_concurrent_queries=4))
        await settle()
        await submitted(router, 3)
        assert order(replica) == ["0", "0'", "1", "2"]
        replica.refuse(2)
        await asyncio.sleep(0.01)
        while replica.calls:
            replica.reply()
            await settle()
        assert order(replica) == ["0", "0'", "1", "2", "0'", "1'", "2'"]
        assert counts(router, "b") == {"answered": 3}
        router.validate()
        await router.aclose()

    run(main())


# --- new tables, and the end ----------------------------------------------------------------------------------


def test_a_shadow_that_is_ended_gets_no_more() -> None:
    """From the next table on there are no copies; those that run may end as they like (SH3)."""

    async def main() -> None:
        primary, shadow = ScriptedReplica(), ScriptedReplica("s")
        async with shadowed(primary, shadow, max_concurrent_queries=2) as router:
            await submitted(router, 3)
            router.apply(table(2, primary, shadow, 0.0, max_concurrent_queries=2))
            await submitted(router, 3)
            assert router.shadow_statistics() == []
            while shadow.calls:
                shadow.reply()
                await settle()
            assert len(shadow.arrived) == 3
            assert pool(router, "s").inflight == 0

    run(main())


def test_another_proportion_keeps_count() -> None:
    """A shadow whose proportion changes is the same shadow: what is under way counts, and the numbers go on (SH9)."""

    async def main() -> None:
        primary, shadow = ScriptedReplica(), ScriptedReplica("s")
        async with shadowed(primary, shadow) as router:
            await submitted(router, 70)
            router.apply(table(2, primary, shadow, 0.5))
            await submitted(router, 70)
            assert counts(router) == {"inflight": 100, "dropped": 40}

    run(main())


def test_a_shadow_whose_backend_is_deleted() -> None:
    """Copies that wait for a deleted backend end there, and go to no other; those that run are left alone (SH4)."""

    async def main() -> None:
        primary, shadow = ScriptedReplica(), ScriptedReplica("s")
        async with shadowed(primary, shadow, max_concurrent_queries=1) as router:
            calls = await submitted(router, 3)
            kept = router._shadows["b", "s"]
            router.apply(table_of(2, {"b": [primary]}, max_concurrent_queries=1))
            await settle()
            assert kept.statistics() == ShadowStatistics("b", "s", 1, 0, 2, 0)
            for _ in calls:
                primary.reply()
                await settle()
            assert [(await call.future).status for call in calls] == [200, 200, 200]
            shadow.reply()
            await settle()
            assert kept.statistics() == ShadowStatistics("b", "s", 0, 1, 2, 0)
            assert order(primary) == ["0", "1", "2"]

    run(main())


def test_the_end_leaves_nothing_behind() -> None:
    """A client that shuts down while copies wait, run and stream leaves no task, no timer and no connection."""

    async def main() -> None:
        primary, shadow = ScriptedReplica(), ScriptedReplica("s")
        router = Router(instance=INSTANCE, draw=lambda: 0.0)
        router.apply(table(1, primary, shadow, 1.0, max_concurrent_queries=3))
        await settle()
        before = asyncio.all_tasks()
        calls = await submitted(router, 6)
        shadow.reply(1, b"", stream=True)
        shadow.reply(2, b"", stream=True)
        shadow.chunk(2, b"one")
        await settle()
        assert len(asyncio.all_tasks() - before) >= 2
        await router.aclose()
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert all(call.future.exception() for call in calls)
        assert counts(router).get("inflight", 0) == 0
        assert not any(pipe.open for pipe in (*primary.pipes, *shadow.pipes))
        await asyncio.sleep(100)

    run(main())


def test_ending_a_shadow_and_beginning_again_lifts_no_limit() -> None:
    """Copies that hang since before a shadow was ended and begun again still count: there are 100 at most (SH9)."""

    async def main() -> None:
        shadow = ScriptedReplica("s")
        async with (
            MemoryReplica(echo_async) as primary,
            shadowed(primary, shadow, max_concurrent_queries=1000) as router,
        ):
            await submitted(router, 150)
            router.apply(table(2, primary, shadow, 0.0, max_concurrent_queries=1000))
            router.apply(table(3, primary, shadow, 1.0, max_concurrent_queries=1000))
            await submitted(router, 150)
            assert len(shadow.calls) == 100

    run(main())


def test_the_end_ends_streams_of_a_deleted_shadow() -> None:
    """A client that shuts down while the shadow it reads from is deleted leaves no task and no connection."""

    async def main() -> None:
        primary, shadow = ScriptedReplica(), ScriptedReplica("s")
        router = Router(instance=INSTANCE, draw=lambda: 0.0)
        router.apply(table(1, primary, shadow, 1.0))
        await settle()
        await submitted(router)
        shadow.reply(1, b"", stream=True)
        await settle()
        router.apply(table_of(2, {"b": [primary]}))
        await settle()
        await router.aclose()
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert not any(pipe.open for pipe in shadow.pipes)

    run(main())


@pytest.mark.parametrize("seed", range(5))
def test_nothing_gets_lost_in_a_storm(seed: int) -> None:
    """Calls, answers, refusals, deaths, cancellations and new tables in any order: each copy is counted once (SH9)."""

    async def main() -> None:
        chance = random.Random(seed)
        replicas = {tag: ScriptedReplica(tag) for tag in ("a", "s")}
        router = Router(instance=INSTANCE, draw=chance.random)
        numbers, calls = itertools.count(1), []

        def new_table() -> None:
            proportions = {tag: chance.choice([0.3, 1.0]) for tag in ("a", "s")}
            backends = {tag: [replica] for tag, replica in replicas.items()}
            endpoints = {"e": {"a": 1.0}, "f": {"a": 0.5, "s": 0.5}}
            router.apply(
                table_of(
                    next(numbers),
                    backends,
                    endpoints=endpoints,
                    shadows=proportions,
                    max_concurrent_queries=chance.randint(1, 4),
                    max_queued_queries=3,
                )
            )

        new_table()
        await settle()
        for _ in range(400):
            replica = replicas[chance.choice("as")]
            dice = chance.random()
            if dice < 0.5:
                call = new_call(chance.choice("ef"), timeout_s=chance.choice([0.5, 5, 50]))
                with contextlib.suppress(BackpressureError):
                    router.submit(call)
                    calls.append(call)
            elif dice < 0.8 and replica.calls:
                chance.choice([replica.reply, replica.reply, replica.fail, replica.refuse])()
            elif dice < 0.85 and calls:
                router.cancel(chance.choice(calls))
            elif dice < 0.88:
                new_table()
            elif dice < 0.9:
                replica.die()
                replicas[replica.ref.tag.partition("#")[0]] = ScriptedReplica(replica.ref.tag.partition("#")[0])
                new_table()
            else:
                await asyncio.sleep(chance.choice([0.001, 0.1, 1]))
            await settle()
            router.validate()
            assert all(0 <= shadow.inflight <= MAX_IN_FLIGHT for shadow in router.shadow_statistics())
        await asyncio.sleep(60)
        assert all(call.future.done() for call in calls)
        assert sum(shadow.answered for shadow in router.shadow_statistics()) > 0
        assert [shadow.inflight for shadow in router.shadow_statistics()] == [0] * 4
        assert [(s.waiting, s.shadows_waiting, s.inflight) for s in router.statistics()] == [(0, 0, 0)] * 2
        router.validate()
        await router.aclose()

    run(main())


def test_heads_are_not_shared() -> None:
    """What is done to a copy's headers is not seen in the call's, nor in another copy's (SH4)."""

    async def main() -> None:
        primary, one, two = ScriptedReplica(), ScriptedReplica("s"), ScriptedReplica("t")
        router = Router(instance=INSTANCE, draw=lambda: 0.0)
        backends = {"b": [primary], "s": [one], "t": [two]}
        router.apply(table_of(1, backends, endpoints={"b": {"b": 1.0}}, shadows={"s": 1.0, "t": 1.0}))
        await settle()
        (call,) = await submitted(router, headers=[(b"a", b"1")])
        heads: list[CallHead] = [replica.arrived[0] for replica in (primary, one, two)]
        assert [head.headers for head in heads] == [[(b"a", b"1")], [(b"a", b"1"), MARK], [(b"a", b"1"), MARK]]
        assert call.headers == [(b"a", b"1")]
        await router.aclose()

    run(main())
