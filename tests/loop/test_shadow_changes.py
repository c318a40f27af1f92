"""routing.shadow: one backend in two roles, new tables, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random

import msgspec
import pytest

from pointsman.exceptions import BackpressureError
from pointsman.routing.metrics import ShadowStatistics
from pointsman.routing.router import Router
from pointsman.routing.shadow import MAX_IN_FLIGHT
from pointsman.testing import INSTANCE, MemoryReplica, ScriptedReplica, new_call, run, settle, table_of
from tests.loop.models import echo_async
from tests.loop.shadowed import counts, order, pool, shadowed, submitted, table


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
        await submitted(router, 3, waits_if_full=True)
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
        router.submit(new_call("s", request_id="user 5", waits_if_full=True))
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
