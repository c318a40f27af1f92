"""What counts as a request, as an error and as latency: HTTP, handles, shadows (RO5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pointsman.calling.dispatch import HandleCall, LoopDispatcher
from pointsman.incoming import CODEC_OBJECT, RequestHead
from pointsman.model import Reason
from pointsman.model.evidence import PINNED, ROUTED, SHADOW, Tally, TallyKey
from pointsman.routing.router import Router
from pointsman.telemetry.counted import TallyCollector
from pointsman.telemetry.tallies import Tallies, TallyFile
from pointsman.testing import INSTANCE, ScriptedReplica, new_call, run, settle
from tests.loop.edge import edge
from tests.loop.routers import pinned, several, table_for
from tests.loop.shadowed import table as shadow_table

WAYS = pytest.mark.parametrize("middlewares", [False, True], ids=["direct", "with middlewares"])


class Counting:
    """Tallies, and what is read of them."""

    def __init__(self, folder: Path) -> None:
        self.tallies = Tallies(TallyFile(folder / "t", "ingress"))
        self._collector = TallyCollector(folder / "t")

    def seen(self) -> dict[TallyKey, Tally]:
        return dict(self._collector.collect().tallies)

    def counts(self, key: TallyKey) -> tuple[int, int, int]:
        """Requests, errors and latencies of a key."""
        tally = self.seen().get(key, Tally())
        return tally.requests, tally.errors, sum(tally.latencies.values())


@pytest.fixture
def counting(tmp_path: Path) -> Counting:
    return Counting(tmp_path)


# --- HTTP -----------------------------------------------------------------------------------------------------

HTTP = TallyKey("b", 1, "b")
ENDS: dict[str, tuple[Callable[[ScriptedReplica], None], int, bool]] = {
    "answered": (lambda replica: replica.reply(), 200, False),
    "the user's 503": (lambda replica: replica.reply(status=503), 503, True),
    "the user's 404": (lambda replica: replica.reply(status=404), 404, False),
    "raised": (lambda replica: replica.fail(), 500, True),
    "a body that user code cannot read": (lambda replica: replica.fail(reason=Reason.BAD_BODY), 400, False),
    "a header that cannot be sent": (lambda replica: replica.reply(headers=[(b"bad\nname", b"x")]), 500, True),
    "died": (lambda replica: replica.die(), 502, True),
}


@WAYS
@pytest.mark.parametrize("end", ENDS)
def test_errors_are_what_the_backend_or_we_have_failed_at(counting: Counting, middlewares: bool, end: str) -> None:
    """Status 500 and above count as errors, whoever made them; what a client did wrong is none (RO5)."""
    act, status, is_error = ENDS[end]

    async def main() -> None:
        async with edge(middlewares=middlewares, tallies=counting.tallies) as there:
            client = await there.client()
            client.head(content_length=0)
            await settle()
            act(there.replica)
            await settle()
            assert client.statuses == [status]
            assert counting.counts(HTTP) == (1, int(is_error), 1)

    run(main())


@WAYS
def test_a_request_that_no_policy_has_routed_is_not_counted(counting: Counting, middlewares: bool) -> None:
    """A wrong path or method, and a body that is too large, say nothing about a version (RO5)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, tallies=counting.tallies) as there:
            for path, method, length in (("/none", "POST", 0), ("/b", "PUT", 0), ("/b", "POST", 10**9)):
                client = await there.client()
                client.head(path, method, content_length=length)
                await settle()
        assert counting.seen() == {}

    run(main())


@WAYS
def test_a_client_that_leaves_is_no_request_but_has_waited(counting: Counting, middlewares: bool) -> None:
    """Whoever hangs up is no error of the version; how long they waited counts (RO5)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, tallies=counting.tallies) as there:
            client = await there.client()
            client.head(content_length=0)
            await settle()
            client.leave()
            await settle()
            assert counting.counts(HTTP) == (0, 0, 1)

    run(main())


@WAYS
@pytest.mark.parametrize("is_cut", [False, True], ids=["whole", "cut"])
def test_a_stream_that_is_cut_is_an_error(counting: Counting, middlewares: bool, is_cut: bool) -> None:
    """Its latency is known with its first byte; a stream that breaks off counts as an error (RO5)."""

    async def main() -> None:
        async with edge(middlewares=middlewares, tallies=counting.tallies) as there:
            client = await there.client()
            client.head(content_length=0)
            await settle()
            (call_id,) = there.replica.calls
            there.replica.reply(call_id, b"", stream=True)
            there.replica.chunk(call_id, b"first")
            await settle()
            assert counting.counts(HTTP) == (0, 0, 1)
            there.replica.die() if is_cut else there.replica.end(call_id)
            await settle()
            assert counting.counts(HTTP) == (1, int(is_cut), 1)

    run(main())


# --- which tally ----------------------------------------------------------------------------------------------


def handle_call(router: Router, **fields: Any) -> HandleCall:
    loop = asyncio.get_running_loop()
    return HandleCall(
        RequestHead("e", CODEC_OBJECT), b"", deadline=loop.time() + 60, shard_key=fields.pop("shard_key", None),
        idempotent=False, waits_if_full=False, home=LoopDispatcher(router), scope=None,
    )  # fmt: skip


async def made(router: Router, replica: ScriptedReplica, act: Callable[[HandleCall], None], **fields: Any) -> None:
    call = handle_call(router, **fields)
    router.submit(call)
    await settle()
    act(call)
    await settle()
    assert call.over


def test_handles_count_as_http_does(counting: Counting) -> None:
    """A call by a handle: answered, raised, cancelled, and with a method that is not there (RO5)."""

    async def main() -> None:
        replica = ScriptedReplica("v")
        router = Router(instance=INSTANCE, tallies=counting.tallies)
        router.apply(table_for(5, {"v": replica}, {"v": 1.0}))
        await settle()
        key = TallyKey("e", 5, "v")
        ends: list[tuple[Callable[[HandleCall], None], tuple[int, int, int]]] = [
            (lambda call: replica.reply(), (1, 0, 1)),
            (lambda call: replica.fail(), (2, 1, 2)),
            (lambda call: router.cancel(call), (2, 1, 3)),
        ]
        for act, counts in ends:
            await made(router, replica, act)
            assert counting.counts(key) == counts
        await router.aclose()

    run(main())


def test_a_handle_s_stream_ends_when_it_ends(counting: Counting) -> None:
    """It is counted when its end has come, as an error if it breaks off, and not if its reader stops (RO5)."""

    async def main() -> None:
        replica = ScriptedReplica("v")
        router = Router(instance=INSTANCE, tallies=counting.tallies)
        router.apply(table_for(5, {"v": replica}, {"v": 1.0}))
        await settle()
        seen = []
        for how in ("whole", "left", "cut"):
            call = handle_call(router)
            router.submit(call)
            await settle()
            (call_id,) = replica.calls
            replica.reply(call_id, b"", stream=True)
            await settle()
            assert call.stream is not None
            if how == "whole":
                replica.end(call_id)
            elif how == "left":
                call.stream.close()
            else:
                replica.die()
            await settle()
            seen.append(counting.counts(TallyKey("e", 5, "v")))
        assert seen == [(1, 0, 1), (1, 0, 2), (2, 1, 3)]
        await router.aclose()

    run(main())


def test_a_client_that_shuts_down_blames_nobody(counting: Counting) -> None:
    """A driver ends with calls and streams under way: they are no errors of their backend (RO5)."""

    async def main() -> None:
        replica = ScriptedReplica("v")
        router = Router(instance=INSTANCE, tallies=counting.tallies)
        router.apply(table_for(5, {"v": replica}, {"v": 1.0}))
        await settle()
        calls = [handle_call(router) for _ in range(2)]
        for call in calls:
            router.submit(call)
        await settle()
        replica.reply(stream=True, body=b"")
        await settle()
        await router.aclose()
        assert calls[1].error is not None
        assert counting.counts(TallyKey("e", 5, "v"))[:2] == (0, 0)

    run(main())


def test_each_version_counts_its_own_calls_and_pins_are_apart(counting: Counting) -> None:
    """What one policy has routed is not counted for the next, and pinned keys are counted apart (RO3, RO5)."""

    async def main() -> None:
        replicas = several("vw")
        router = Router(instance=INSTANCE, draw=lambda: 0.5, tallies=counting.tallies)
        router.apply(table_for(5, replicas, {"v": 1.0}))
        await settle()
        late = handle_call(router)
        router.submit(late)
        await settle()
        router.apply(pinned(table_for(6, replicas, {"v": 0.0, "w": 1.0}), me="v"))
        await settle()
        replicas["v"].reply()
        for key, tag in ((None, "w"), ("me", "v"), ("you", "w")):
            await made(router, replicas[tag], lambda call, tag=tag: replicas[tag].reply(), shard_key=key)
        assert {key: tally.requests for key, tally in counting.seen().items()} == {
            TallyKey("e", 5, "v", ROUTED): 1,
            TallyKey("e", 6, "w", ROUTED): 2,
            TallyKey("e", 6, "v", PINNED): 1,
        }
        await router.aclose()

    run(main())


def test_copies_are_counted_for_the_shadow(counting: Counting) -> None:
    """A shadow that fails costs its users nothing, and its copies stand in a tally of their own."""

    async def main() -> None:
        primary, shadow = ScriptedReplica(), ScriptedReplica("s")
        router = Router(instance=INSTANCE, draw=lambda: 0.0, tallies=counting.tallies)
        router.apply(shadow_table(1, primary, shadow, 1.0))
        await settle()
        for act in (lambda: shadow.reply(), lambda: shadow.fail(), lambda: shadow.reply(status=500)):
            router.submit(new_call())
            await settle()
            primary.reply()
            act()
            await settle()
        assert counting.counts(TallyKey("b", 1, "s", SHADOW)) == (3, 2, 3)
        await router.aclose()

    run(main())
