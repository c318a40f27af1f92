"""routing to replicas that run calls one at a time: what they are given ahead, and what is called back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pointsman.exceptions import BackpressureError, DeadlineExceededError, ReplicaDiedError, UserCodeError
from pointsman.model import Reason
from pointsman.policy.balance import GOES_ON, LEAD_S
from pointsman.routing.call import Call
from pointsman.routing.router import Router
from pointsman.testing import MemoryReplica, ScriptedReplica, new_call, run, settle, table_of
from tests.loop import models
from tests.loop.routers import ids, send_back, serial, splitting, submitted, warmed_up

LATE_S = LEAD_S + 0.002


async def behind_a_long_one(router: Router, long: ScriptedReplica, other: ScriptedReplica, **fields: Any) -> list[Call]:
    """Six calls of which each replica has three; one of the two answers its own, the other nothing."""
    await warmed_up(router, long, other, run_us=1500)
    calls = await submitted(router, 6, **fields)
    assert (len(long.calls), len(other.calls)) == (3, 3)
    for _ in range(3):
        other.reply(run_us=1500)
    await settle()
    return calls


def test_the_first_calls_go_to_different_replicas() -> None:
    """Nobody knows yet what a call takes: the second runs beside the first, and the third waits for either (BC6)."""

    async def main() -> None:
        first, second = ScriptedReplica(), ScriptedReplica()
        async with serial(first, second) as router:
            await submitted(router, 3)
            assert sorted(ids(first) + ids(second)) == ["0", "1"]
            (quick,) = [replica for replica in (first, second) if ids(replica) == ["1"]]
            quick.reply()
            await settle()
            assert ids(quick) == ["1", "2"]

    run(main())


@pytest.mark.parametrize(
    ("run_us", "held"), [(50, 20), (1500, 9), (4000, 4), (12_500, 2), (50_000, 2), (50_001, 1), (GOES_ON, 20)]
)
def test_a_replica_is_given_few_calls_ahead(run_us: int, held: int) -> None:
    """As many as it begins within milliseconds, so that it need not wait for each; the others wait for whoever is free
    (BC2, BC6)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with serial(replica, max_concurrent_queries=20) as router:
            await warmed_up(router, replica, run_us=run_us)
            await submitted(router, 50)
            assert len(replica.calls) == held

    run(main())


def test_a_backend_that_only_fails_is_given_calls_ahead_too() -> None:
    """Failures say what calls take, too (BC6)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with serial(replica) as router:
            call = new_call()
            router.submit(call)
            await settle()
            replica.fail(run_us=4000)
            with pytest.raises(UserCodeError, match="no"):
                await call.future
            await submitted(router, 5)
            assert len(replica.calls) == 4

    run(main())


def test_calls_behind_a_long_one_are_called_back() -> None:
    """Two calls wait behind one that takes long: within milliseconds the other replica has them, the oldest first
    (BC6)."""

    async def main() -> None:
        long, other = ScriptedReplica(), ScriptedReplica()
        async with serial(long, other) as router:
            calls = await behind_a_long_one(router, long, other)
            waiting = ids(long)[1:]
            await asyncio.sleep(LATE_S)
            assert (long.recalls, other.recalls) == (1, 0)
            send_back(long)
            await settle()
            assert ids(other)[3:] == waiting
            for _ in range(2):
                other.reply()
            long.reply()
            assert [(await call.future).status for call in calls] == [200] * 6

    run(main())


def test_a_call_that_is_rejected_says_nothing_of_the_others() -> None:
    """A replica rejects a call for a method that it does not have, while a long one runs: what waits there is called
    back all the same, and it gets nothing more (BC6)."""

    async def main() -> None:
        long, other = ScriptedReplica(), ScriptedReplica()
        async with serial(long, other) as router:
            await behind_a_long_one(router, long, other)
            await asyncio.sleep(LATE_S / 2)
            long.fail(list(long.calls)[-1], reason=Reason.REJECTED)
            await asyncio.sleep(LATE_S / 2)
            assert long.recalls == 1
            long.fail(list(long.calls)[-1], reason=Reason.REJECTED)
            await settle()
            await submitted(router, 20)
            assert len(long.calls) == 1

    run(main())


def test_who_was_called_back_is_served_before_who_came_later() -> None:
    """With nobody free, calls that come back wait in front of those that came after them (BC6)."""

    async def main() -> None:
        long, other = ScriptedReplica(), ScriptedReplica()
        async with serial(long, other) as router:
            await behind_a_long_one(router, long, other)
            for number in range(30):
                router.submit(new_call(request_id=f"later {number}"))
            await settle()
            await asyncio.sleep(LATE_S / 2)
            other.reply(run_us=1500)
            await asyncio.sleep(LATE_S / 2)
            back, before = ids(long)[1:], len(other.arrived)
            assert router.statistics()[0].waiting == 14
            send_back(long)
            await settle()
            for _ in back:
                other.reply(run_us=1500)
            await settle()
            assert ids(other)[before:] == back

    run(main())


def test_a_replica_is_asked_once_and_gets_nothing_before_it_is_free() -> None:
    """While a long call runs its replica is left alone, however long that takes; then it is one like the others
    (BC6)."""

    async def main() -> None:
        long, other = ScriptedReplica(), ScriptedReplica()
        async with serial(long, other) as router:
            await behind_a_long_one(router, long, other)
            await asyncio.sleep(LATE_S)
            send_back(long)
            await settle()
            while other.calls:
                other.reply(run_us=1500)
            await settle()
            for _ in range(10):
                router.submit(new_call())
                await asyncio.sleep(1)
                other.reply(run_us=1500)
            assert (long.recalls, len(long.arrived)) == (1, 3)
            long.reply(run_us=1500)
            await settle()
            await submitted(router, 2)
            assert len(long.calls) == 1

    run(main())


def test_calls_stay_where_there_is_nowhere_else() -> None:
    """The only replica is asked for nothing (BC6)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with serial(replica) as router:
            await warmed_up(router, replica, run_us=1500)
            await submitted(router, 5)
            await asyncio.sleep(1)
            assert (replica.recalls, len(replica.calls)) == (0, 5)

    run(main())


def test_short_calls_are_left_alone() -> None:
    """As long as a replica answers every few milliseconds nothing is called back from it (BC6)."""

    async def main() -> None:
        first, second = ScriptedReplica(), ScriptedReplica()
        async with serial(first, second) as router:
            await warmed_up(router, first, second, run_us=1500)
            await submitted(router, 18)
            while first.calls or second.calls:
                await asyncio.sleep(LEAD_S / 2)
                for replica in (first, second):
                    if replica.calls:
                        replica.reply(run_us=1500)
            assert (first.recalls, second.recalls) == (0, 0)

    run(main())


def test_a_call_that_has_begun_runs_once() -> None:
    """The recall comes too late for one of them: it is answered where it runs, and nowhere else (BC6, G2)."""

    async def main() -> None:
        long, other = ScriptedReplica(), ScriptedReplica()
        async with serial(long, other) as router:
            calls = await behind_a_long_one(router, long, other)
            await asyncio.sleep(LATE_S)
            send_back(long, but=2)
            await settle()
            long.reply(body=b"first")
            long.reply(body=b"second")
            other.reply(body=b"third")
            bodies = [(await call.future).body for call in calls]
            assert sorted(bodies) == [b"first", b"ok", b"ok", b"ok", b"second", b"third"]
            assert len(ids(long)) + len(ids(other)) == 7

    run(main())


def test_a_replica_that_dies_while_it_is_asked() -> None:
    """Calls that were called back from a replica which died before it answered are lost no more than others (G2)."""

    async def main() -> None:
        long, other = ScriptedReplica(), ScriptedReplica()
        async with serial(long, other) as router:
            calls = await behind_a_long_one(router, long, other, idempotent=True)
            await asyncio.sleep(LATE_S)
            assert long.recalls == 1
            long.die()
            await settle()
            while other.calls:
                other.reply(run_us=1500)
                await settle()
            assert [(await call.future).status for call in calls] == [200] * 6

    run(main())


def test_a_connection_that_breaks_while_it_is_asked() -> None:
    """The replica lives on and is dialed again: it is one like the others (BC6, G2)."""

    async def main() -> None:
        long, other = ScriptedReplica(), ScriptedReplica()
        async with serial(long, other) as router:
            await behind_a_long_one(router, long, other, idempotent=True)
            await asyncio.sleep(LATE_S)
            assert long.recalls == 1
            long.pipes[0].cut()
            await asyncio.sleep(0.1)
            while other.calls:
                other.reply(run_us=1500)
                await settle()
            await submitted(router, 2)
            assert (len(long.calls), len(other.calls)) == (1, 1)

    run(main())


def test_a_call_that_may_have_begun_is_not_repeated() -> None:
    """The same for calls that may not run twice, where nobody can tell which had begun (G2)."""

    async def main() -> None:
        long, other = ScriptedReplica(), ScriptedReplica()
        async with serial(long, other) as router:
            calls = await behind_a_long_one(router, long, other)
            await asyncio.sleep(LATE_S)
            send_back(long, but=2)
            await settle()
            long.die()
            await settle()
            other.reply()
            outcomes = await asyncio.gather(*(call.future for call in calls), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes].count(ReplicaDiedError) == 2

    run(main())


def test_a_caller_leaves_while_its_call_comes_back() -> None:
    """A call that was given up is not placed again when it comes back (HA6, F26)."""

    async def main() -> None:
        long, other = ScriptedReplica(), ScriptedReplica()
        async with serial(long, other) as router:
            calls = await behind_a_long_one(router, long, other)
            await asyncio.sleep(LATE_S)
            (gone,) = [call for call in calls if call.request.request_id == ids(long)[2]]
            call_ids = list(long.calls)
            router.cancel(gone)
            for call_id in call_ids[1:]:
                long.refuse(call_id, reason=Reason.RECALLED)
            await settle()
            assert ids(other)[3:] == [ids(long)[1]]
            assert gone.future.cancelled()

    run(main())


def test_a_call_that_came_back_has_its_deadline() -> None:
    """It was not begun, and at its deadline its caller hears so (HE2)."""

    async def main() -> None:
        long, other = ScriptedReplica(), ScriptedReplica()
        async with serial(long, other) as router:
            await warmed_up(router, long, other, run_us=1500)
            calls = await submitted(router, 4, timeout_s=5)
            await asyncio.sleep(LATE_S)
            assert (long.recalls, other.recalls) == (1, 1)
            for replica in (long, other):
                send_back(replica)
            outcomes = await asyncio.gather(*(call.future for call in calls), return_exceptions=True)
            told = [error.started for error in outcomes if isinstance(error, DeadlineExceededError)]
            assert sorted(told) == [False, False, True, True]
            assert router.statistics()[0].waiting == 0

    run(main())


def test_a_shadow_that_came_back_waits_behind_users() -> None:
    """Copies are called back with all others, and yield as ever (SH6)."""

    async def main() -> None:
        first, second = ScriptedReplica(), ScriptedReplica()
        async with serial(first, second) as router:
            await warmed_up(router, first, second, run_us=1500)
            await submitted(router, 2)
            for name in ("copy 1", "copy 2"):
                router._pools["b"].submit(new_call(request_id=name, shadow=True))
            await settle()
            user = new_call(request_id="user")
            router.submit(user)
            await asyncio.sleep(LATE_S)
            assert (first.recalls, second.recalls) == (1, 1)
            for replica in (first, second):
                send_back(replica)
            await settle()
            assert router.statistics()[0].shadows_waiting == 2
            first.reply(run_us=20_000)
            await settle()
            assert ids(first)[-1] == "user"
            second.reply(run_us=20_000)
            await settle()
            assert ids(second)[-1] == "copy 1"

    run(main())


def test_a_call_behind_that_of_another_router_is_called_back() -> None:
    """Two HTTP servers share two replicas, and neither sees the other's calls: what waits behind a long one of the
    other's goes where it can begin (BC6)."""

    async def main() -> None:
        long, other = ScriptedReplica(), ScriptedReplica()
        async with serial(long, other) as router:
            (call,) = await submitted(router, 1)
            (busy,) = [replica for replica in (long, other) if replica.calls]
            idle = other if busy is long else long
            await asyncio.sleep(LATE_S)
            assert (busy.recalls, idle.recalls) == (0, 1)
            idle.free(idle=True)
            await settle()
            assert (busy.recalls, idle.recalls) == (1, 1)
            busy.refuse(reason=Reason.RECALLED, load=1)
            await settle()
            assert len(idle.calls) == 1
            await submitted(router, 3)
            assert (len(busy.calls), len(idle.calls)) == (0, 1)
            busy.free()
            await settle()
            assert len(busy.calls) == 1
            idle.reply()
            assert (await call.future).status == 200

    run(main())


def test_a_call_keeps_its_place_while_nobody_is_idle() -> None:
    """Where other routers keep all replicas busy a call stays where it is, and is next there: one that is sent around
    would lose its place each time (BC6)."""

    async def main() -> None:
        ours, theirs = ScriptedReplica(), ScriptedReplica()
        async with serial(ours, theirs) as router:
            (call,) = await submitted(router, 1)
            (mine,) = [replica for replica in (ours, theirs) if replica.calls]
            busy = theirs if mine is ours else ours
            for _ in range(5):
                await asyncio.sleep(0.1)
                busy.free()
                await settle()
            assert mine.recalls == 0
            assert busy.recalls == 6
            mine.reply()
            assert (await call.future).status == 200

    run(main())


def test_a_stream_of_the_thread_holds_up_nobody() -> None:
    """A call that was placed behind a stream, which may have no end, is called back (BC6)."""

    async def main() -> None:
        first, second = ScriptedReplica(), ScriptedReplica()
        async with serial(first, second) as router:
            calls = await submitted(router, 2)
            (streamed,) = [call for call in calls if ids(first) == [call.request.request_id]]
            first.reply(stream=True)
            await settle()
            await submitted(router, 1)
            assert len(first.calls) == 1
            await asyncio.sleep(LATE_S)
            assert first.recalls == 1
            first.refuse(reason=Reason.RECALLED)
            second.reply()
            await settle()
            assert (len(first.calls), len(second.calls)) == (0, 1)
            stream = (await streamed.future).stream
            assert stream is not None
            stream.close()

    run(main())


def test_a_replica_that_leaves_gives_back_what_waits() -> None:
    """Scaling in: what waits in the replica that goes is run by one that stays, at once (SO7, BC6)."""

    async def main() -> None:
        leaving, staying = ScriptedReplica(), ScriptedReplica()
        async with serial(leaving, staying) as router:
            calls = await behind_a_long_one(router, leaving, staying)
            router.apply(table_of(2, {"b": [staying]}, one_at_a_time=True))
            await settle()
            assert leaving.recalls == 1
            send_back(leaving)
            await settle()
            assert len(staying.calls) == 2
            leaving.reply()
            for _ in range(2):
                staying.reply()
            assert [(await call.future).status for call in calls] == [200] * 6

    run(main())


def test_a_backend_that_is_deleted_finishes_what_waits() -> None:
    """The replicas that leave get what they take at a time, and run it before they go (DR1)."""

    async def main() -> None:
        replica, other = ScriptedReplica(), ScriptedReplica("c")
        async with serial(replica, max_concurrent_queries=10) as router:
            calls = await submitted(router, 10)
            assert len(replica.calls) == 1
            router.apply(table_of(2, {"c": [other]}, endpoints={}))
            await settle()
            while replica.calls:
                replica.reply()
            assert [(await call.future).status for call in calls] == [200] * 10

    run(main())


def test_a_recall_on_its_way_when_the_backend_is_deleted() -> None:
    """A backend goes just after its replica was asked for what it has not begun: what comes back is run by the replica
    all the same, since no other can (DR1, BC6)."""

    async def main() -> None:
        long, other, last = ScriptedReplica(), ScriptedReplica(), ScriptedReplica("c")
        async with serial(long, other) as router:
            calls = await behind_a_long_one(router, long, other)
            waiting = ids(long)[1:]
            await asyncio.sleep(LATE_S)
            assert long.recalls == 1
            router.apply(table_of(2, {"c": [last]}, endpoints={}))
            await settle()
            send_back(long)
            await settle()
            assert [head.request.request_id for head in long.calls.values()][1:] == waiting
            while long.calls:
                long.reply()
            assert [(await call.future).status for call in calls] == [200] * 6

    run(main())


def test_what_replicas_would_take_is_not_counted_as_queued() -> None:
    """``max_queued_queries`` bounds what waits beyond ``max_concurrent_queries``, wherever it waits (BC2, BC5)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with serial(replica, max_concurrent_queries=10, max_queued_queries=2) as router:
            await submitted(router, 12)
            assert len(replica.calls) == 1
            with pytest.raises(BackpressureError):
                router.submit(new_call())
            replica.reply(run_us=20_000)
            await settle()
            router.submit(new_call())
            with pytest.raises(BackpressureError):
                router.submit(new_call())

    run(main())


def test_an_async_replica_of_a_backend_that_becomes_sync() -> None:
    """While new sync code comes up the old async replicas serve as many requests at once as before (BC2, DP5)."""

    async def main() -> None:
        async with (
            MemoryReplica(models.Gate) as old,
            MemoryReplica(models.Gate) as other,
            serial(old, other) as router,
        ):
            calls = await submitted(router, 20)
            assert {(await call.future).body for call in calls} == {b"%d" % n for n in range(1, 11)}
            assert asyncio.get_running_loop().time() == pytest.approx(1, abs=0.1)

    run(main())


def test_other_backends_are_filled_as_before() -> None:
    """Async and batching replicas get what they may run, and nothing is called back from them (BC2, BA5)."""

    async def main() -> None:
        first, second = ScriptedReplica(), ScriptedReplica()
        async with splitting(table_of(1, {"b": [first, second]})) as router:
            await submitted(router, 40)
            await asyncio.sleep(1)
            assert (len(first.calls), len(second.calls)) == (20, 20)
            assert (first.recalls, second.recalls) == (0, 0)

    run(main())
