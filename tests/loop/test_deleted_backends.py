"""routing: backends that are deleted while calls wait for them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pointsman.exceptions import BackpressureError, DeadlineExceededError, ServeException
from pointsman.model import Reason
from pointsman.policy.rendezvous import Rendezvous
from pointsman.testing import new_call, run, settle
from tests.loop.routers import ids, pinned, several, splitting, submitted, table_for


def test_calls_that_wait_follow_their_endpoint() -> None:
    """What waits for a backend that is deleted, with a place or for one, goes where the endpoint leads now (F30)."""

    async def main() -> None:
        replicas = several("on")
        limits: dict[str, Any] = {"max_concurrent_queries": 1, "max_queued_queries": 2}
        async with splitting(table_for(1, replicas, {"o": 1.0}, **limits)) as router:
            calls = await submitted(router, 6, endpoint="e", waits_if_full=True)
            new = {"n": replicas["n"]}
            router.apply(table_for(2, new, {"n": 1.0}, **limits))
            await settle()
            assert ids(replicas["n"]) == ["1"]
            (pool,) = router.statistics()
            assert (pool.backend, pool.waiting) == ("n", 4)
            replicas["o"].reply()
            for _ in range(5):
                replicas["n"].reply()
                await settle()
            assert [(await call.future).status for call in calls] == [200] * 6
            assert (ids(replicas["o"]), ids(replicas["n"])) == (["0"], ["1", "2", "3", "4", "5"])
            assert [(call.backend, call.policy_version) for call in calls] == [("o", 1)] + [("n", 2)] * 5

    run(main())


def test_calls_that_had_a_place_are_not_turned_away() -> None:
    """A call that was admitted keeps that, though the new backend's queue is full; a new one is refused (F30, BC5)."""

    async def main() -> None:
        replicas = several("on")
        limits: dict[str, Any] = {"max_concurrent_queries": 1, "max_queued_queries": 3}
        async with splitting(table_for(1, replicas, {"o": 1.0}, **limits)) as router:
            calls = await submitted(router, 4, endpoint="e")
            limits["max_queued_queries"] = 1
            router.apply(table_for(2, {"n": replicas["n"]}, {"n": 1.0}, **limits))
            with pytest.raises(BackpressureError):
                router.submit(new_call("e"))
            replicas["o"].reply()
            for _ in range(3):
                await settle()
                replicas["n"].reply()
            assert [(await call.future).status for call in calls] == [200] * 4

    run(main())


def test_calls_that_move_are_not_copied_again() -> None:
    """A call that is placed again has the copy that it had, and no other (SH8)."""

    async def main() -> None:
        replicas = several("ons")
        options: dict[str, Any] = {"max_concurrent_queries": 1, "shadows": {"s": 1.0}}
        async with splitting(table_for(1, replicas, {"o": 1.0}, **options)) as router:
            await submitted(router, 3, endpoint="e")
            (before,) = router.shadow_statistics()
            del replicas["o"]
            router.apply(table_for(2, replicas, {"n": 1.0}, **options))
            await settle()
            (after,) = router.shadow_statistics()
            assert before.inflight == after.inflight == 3
            assert after.dropped == after.failed == 0
            assert len(replicas["n"].arrived) == 1

    run(main())


def test_calls_that_move_go_by_their_key() -> None:
    """A user's call that waited for a deleted backend goes to the one that the user's next call goes to (SA1, SA7)."""

    async def main() -> None:
        replicas = several("oab")
        async with splitting(table_for(1, replicas, {"o": 1.0}, max_concurrent_queries=1)) as router:
            users = [f"user {number}" for number in range(10)]
            await submitted(router, 1, endpoint="e")
            for user in users:
                router.submit(new_call("e", shard_key=user, request_id=user))
            del replicas["o"]
            weights = {"a": 0.5, "b": 0.5}
            router.apply(pinned(table_for(2, replicas, weights), **{users[0]: "a", users[1]: "b"}))
            await settle()
            owner = Rendezvous("e", weights).owner
            homes = {user: tag for tag in "ab" for user in ids(replicas[tag])}
            assert homes == {**{user: owner(user) for user in users}, users[0]: "a", users[1]: "b"}

    run(main())


def test_calls_that_move_keep_their_deadline() -> None:
    """Being placed again gives a call no more time than it had, and it can still be cancelled (F30)."""

    async def main() -> None:
        replicas = several("on")
        async with splitting(table_for(1, replicas, {"o": 1.0}, max_concurrent_queries=1)) as router:
            _, first, second, third = await submitted(router, 4, endpoint="e", timeout_s=10)
            await asyncio.sleep(4)
            router.apply(table_for(2, {"n": replicas["n"]}, {"n": 1.0}, max_concurrent_queries=1))
            await settle()
            assert replicas["n"].arrived[0].budget_ms == pytest.approx(6000, abs=10)
            router.cancel(second)
            for call, started in ((first, True), (third, False)):
                with pytest.raises(DeadlineExceededError) as missed:
                    await call.future
                assert missed.value.started is started
            assert asyncio.get_running_loop().time() == pytest.approx(10, abs=0.1)
            assert second.future.cancelled()
            assert ids(replicas["n"]) == ["1"]

    run(main())


def test_a_call_that_a_leaving_replica_sends_back_follows_its_endpoint() -> None:
    """A call that reached a deleted backend's replica just too late goes on to the new one, copied once (DR5, SH8)."""

    async def main() -> None:
        replicas = several("ons")
        async with splitting(table_for(1, replicas, {"o": 1.0}, shadows={"s": 1.0})) as router:
            (call,) = await submitted(router, 1, endpoint="e", http_method="POST")
            old = replicas.pop("o")
            router.apply(table_for(2, replicas, {"n": 1.0}, shadows={"s": 1.0}))
            old.refuse(reason=Reason.DRAINING)
            await settle()
            replicas["n"].reply(body=b"new")
            assert (await call.future).body == b"new"
            assert len(replicas["s"].arrived) == 1

    run(main())


def test_the_end_fails_calls_of_a_deleted_backend_too() -> None:
    """A client that shuts down fails every call that is under way, also one whose backend is gone: nobody waits for
    ever (G9)."""

    async def main() -> None:
        replicas = several("on")
        async with splitting(table_for(1, replicas, {"o": 1.0})) as router:
            (call,) = await submitted(router, 1, endpoint="e")
            old = replicas.pop("o")
            router.apply(table_for(2, replicas, {"n": 1.0}))
            await settle()
            await router.aclose()
            await settle()
            assert call.future.done()
            assert isinstance(call.future.exception(), ServeException)
            assert not any(pipe.open for pipe in old.pipes)

    run(main())
