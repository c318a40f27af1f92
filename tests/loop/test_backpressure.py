"""routing.pool: what a caller is told when the queue is full."""

from __future__ import annotations

import asyncio

import pytest

from pointsman.exceptions import BackpressureError
from pointsman.ingress.codec import answer_for
from pointsman.routing.refusals import MAX_RETRY_AFTER_S
from pointsman.routing.router import Router
from pointsman.testing import ScriptedReplica, new_call, run, settle
from tests.loop.routers import routed, submitted


def refused(router: Router) -> float:
    """Submit one call too many; returns after how many seconds to try again."""
    with pytest.raises(BackpressureError, match="max_queued_queries") as caught:
        router.submit(new_call())
    return caught.value.retry_after


async def retry_after(*, queued: int, every_s: float, answered: int = 60) -> float:
    """What a call is told that comes on top of ``queued`` others, at a backend that answers one each so often."""
    replica = ScriptedReplica()
    async with routed(replica, max_concurrent_queries=1, max_queued_queries=queued) as router:
        calls = await submitted(router, queued + 1, timeout_s=1e6)
        for _ in range(answered):
            await asyncio.sleep(every_s)
            replica.reply()
            await settle()
            calls += await submitted(router, 1, timeout_s=1e6)
        return refused(router)


def test_it_grows_with_the_queue() -> None:
    """Who comes behind forty others is told to wait four times as long as behind ten (BC5, F35)."""
    ten, forty = (run(retry_after(queued=queued, every_s=1.0)) for queued in (10, 40))
    assert ten == pytest.approx(10, rel=0.15)
    assert forty == pytest.approx(40, rel=0.15)


def test_it_grows_with_the_time_that_an_answer_takes() -> None:
    """Behind a slow backend the same queue takes longer (BC5, F35)."""
    fast, slow = (run(retry_after(queued=20, every_s=every_s)) for every_s in (0.1, 1.0))
    assert fast == pytest.approx(2, rel=0.15)
    assert slow == pytest.approx(20, rel=0.15)


def test_it_stays_between_a_second_and_a_minute() -> None:
    """A fast backend is worth a try in a second, a dead slow one in a minute (BC5)."""
    assert run(retry_after(queued=5, every_s=0.001)) == 1.0
    assert run(retry_after(queued=1000, every_s=10.0)) == MAX_RETRY_AFTER_S


def test_it_is_a_second_while_nothing_is_known() -> None:
    """A backend that has answered nobody yet gives no reason to wait long (BC5)."""
    assert run(retry_after(queued=50, every_s=1.0, answered=0)) == 1.0


def test_failures_make_room_too() -> None:
    """A backend that raises works its queue off as well as one that answers (F35)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica, max_concurrent_queries=1, max_queued_queries=20) as router:
            calls = await submitted(router, 21, timeout_s=1e6)
            for _ in range(60):
                await asyncio.sleep(0.5)
                replica.fail()
                await settle()
                calls += await submitted(router, 1, timeout_s=1e6)
            assert refused(router) == pytest.approx(10, rel=0.15)
            assert sum(call.future.done() and call.future.exception() is not None for call in calls) == 60  # type: ignore[attr-defined]

    run(main())


def test_a_backend_that_stands_still_is_not_praised_for_its_past() -> None:
    """Some time after the last answer the queue counts as slow (BC5, F35)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica, max_concurrent_queries=1, max_queued_queries=10) as router:
            await submitted(router, 11, timeout_s=1e6)
            for _ in range(100):
                await asyncio.sleep(0.1)
                replica.reply()
                await settle()
                await submitted(router, 1, timeout_s=1e6)
            at_once = refused(router)
            await asyncio.sleep(15)
            assert refused(router) > 5 * at_once

    run(main())


@pytest.mark.parametrize(("seconds", "header"), [(0.2, b"1"), (1.0, b"1"), (7.4, b"7"), (60.0, b"60")])
def test_http_clients_get_whole_seconds(seconds: float, header: bytes) -> None:
    """A 503 says in whole seconds when to come again (BC5, HA9)."""
    answer = answer_for(BackpressureError("full", retry_after=seconds))
    assert answer.status == 503
    assert answer.headers == [(b"retry-after", header)]
