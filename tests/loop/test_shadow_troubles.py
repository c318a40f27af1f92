"""routing.shadow: a shadow's troubles are its own, and users never notice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pointsman.exceptions import BackpressureError, UserCodeError
from pointsman.model import Reason
from pointsman.routing.router import Router
from pointsman.routing.shadow import MAX_IN_FLIGHT
from pointsman.testing import INSTANCE, MemoryReplica, ScriptedReplica, new_call, run, settle
from tests.loop.models import echo_async
from tests.loop.shadowed import counts, pool, shadowed, submitted, table


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
