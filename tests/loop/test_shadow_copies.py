"""routing.shadow: what a copy is, and how many there are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import pickle
import random
from collections import Counter
from typing import Any

import msgspec
import pytest

from pointsman.incoming import CODEC_OBJECT
from pointsman.routing.metrics import ShadowStatistics
from pointsman.routing.router import Router
from pointsman.testing import INSTANCE, MemoryReplica, ScriptedReplica, new_call, run, settle, table_of
from pointsman.wire.messages import CallHead
from tests.loop.models import echo_async
from tests.loop.shadowed import MARK, SEEN, counts, fail, order, record, shadowed, submitted


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    SEEN.clear()


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
            marked = msgspec.structs.replace(original.request, headers=[*original.request.headers, MARK])
            assert copy == msgspec.structs.replace(original, request=marked, shadow=True)
            assert original.request.headers == headers == call.request.headers
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
        primary = {head.request.request_id: tag for tag in ("a", "b") for head in replicas[tag].arrived}
        assert len(primary) == 1000
        for tag in proportions:
            copies.update((tag, primary[head.request.request_id]) for head in replicas[tag].arrived)
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
        assert [head.request.headers for head in heads] == [[(b"a", b"1")], [(b"a", b"1"), MARK], [(b"a", b"1"), MARK]]
        assert call.request.headers == [(b"a", b"1")]
        await router.aclose()

    run(main())
