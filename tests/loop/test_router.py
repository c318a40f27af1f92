"""routing: one router, its pools, and replicas in memory that answer as the test says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pointsman.exceptions import BackpressureError, DeadlineExceededError, ServeException, UserCodeError
from pointsman.model import ReplicaConfig
from pointsman.routing.reply import StreamBroken
from pointsman.routing.router import NoSuchEndpointError, Router
from pointsman.testing import INSTANCE, MemoryReplica, ScriptedReplica, new_call, run, settle, table_of
from tests.loop.models import Gate, echo_async, echo_sync
from tests.loop.routers import ids, routed, submitted


@pytest.mark.parametrize("function", [echo_async, echo_sync])
def test_a_call_reaches_user_code_and_comes_back(function: Any) -> None:
    """A request is answered by the user's function, be it async or sync (BC4)."""

    async def main() -> None:
        async with MemoryReplica(function) as replica, routed(replica) as router:
            calls = [new_call(body=b"%d" % number) for number in range(20)]
            for call in calls:
                router.submit(call)
            replies = await asyncio.gather(*(call.future for call in calls))
            assert [reply.body for reply in replies] == [b"%d" % number for number in range(20)]

    run(main())


def test_the_least_busy_replica_is_chosen() -> None:
    """Six calls spread evenly over three replicas, and the one that has answered gets the next (BC6)."""

    async def main() -> None:
        replicas = [ScriptedReplica() for _ in range(3)]
        async with routed(*replicas) as router:
            await submitted(router, 6)
            assert [len(replica.calls) for replica in replicas] == [2, 2, 2]
            replicas[1].reply()
            await settle()
            await submitted(router, 1)
            assert [len(replica.calls) for replica in replicas] == [2, 2, 2]

    run(main())


def test_load_from_other_routers_counts() -> None:
    """A replica that tells of other routers' calls is left to them while another is idle (BC6)."""

    async def main() -> None:
        first, second = ScriptedReplica(), ScriptedReplica()
        async with routed(first, second) as router:
            await submitted(router, 2)
            first.reply(load=7)
            second.reply(load=0)
            await settle()
            await submitted(router, 4)
            assert (len(first.calls), len(second.calls)) == (0, 4)

    run(main())


def test_waiting_calls_are_placed_in_arrival_order() -> None:
    """Nobody overtakes: with one replica that takes one call at a time, calls run as they came (BC6)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica, max_concurrent_queries=1) as router:
            calls = await submitted(router, 5)
            for number in range(5):
                assert ids(replica) == [str(n) for n in range(number + 1)]
                replica.reply()
                await settle()
            assert all(call.future.done() for call in calls)

    run(main())


def test_the_queue_is_bounded_per_endpoint() -> None:
    """At limit - 1 and limit a call waits, at limit + 1 it is refused; another endpoint has room of its own (BC5)."""

    async def main() -> None:
        endpoints = {"b": {"b": 1.0}, "other": {"b": 1.0}}
        replica = ScriptedReplica()
        async with routed(replica, endpoints=endpoints, max_concurrent_queries=1, max_queued_queries=2) as router:
            await submitted(router, 3)
            assert router.would_wait("b")
            assert not router.would_wait("other")
            with pytest.raises(BackpressureError, match="2 calls of endpoint 'b'"):
                router.submit(new_call())
            router.submit(new_call("other"))
            replica.reply()
            await settle()
            assert not router.would_wait("b")
            router.submit(new_call())

    run(main())


def test_no_queue_means_run_now_or_be_refused() -> None:
    """With ``max_queued_queries=0`` a free replica still takes a call, and a busy one means refusal (BC5)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica, max_concurrent_queries=1, max_queued_queries=0) as router:
            await submitted(router, 1)
            with pytest.raises(BackpressureError):
                router.submit(new_call())

    run(main())


def test_a_handle_call_waits_for_room_until_its_deadline() -> None:
    """A handle's call gets a place when there is one; at its deadline it hears that the queue was full (HA9)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica, max_concurrent_queries=1, max_queued_queries=1) as router:
            await submitted(router, 2)
            admitted: list[str] = []
            patient, hasty = (new_call(waits_if_full=True, timeout_s=s, request_id=i) for s, i in ((50, "p"), (5, "h")))
            for call in (patient, hasty):
                call.on_admitted = lambda call=call: admitted.append(call.request.request_id)  # type: ignore[misc]
                router.submit(call)
            with pytest.raises(BackpressureError):
                await hasty.future
            assert admitted == []
            replica.reply()
            await settle()
            assert admitted == ["p"]

    run(main())


def test_deadlines_tell_whether_the_call_ran() -> None:
    """A call that waited past its deadline certainly did not run (503); one that was with a replica may have (504)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica, max_concurrent_queries=1) as router:
            running, waiting = await submitted(router, 2, timeout_s=10)
            with pytest.raises(DeadlineExceededError) as ran:
                await running.future
            with pytest.raises(DeadlineExceededError) as waited:
                await waiting.future
            assert (ran.value.started, waited.value.started) == (True, False)
            assert asyncio.get_running_loop().time() == pytest.approx(10, abs=0.1)
            assert ids(replica) == ["0"]
            await settle()
            assert replica.cancelled == [1]

    run(main())


def test_the_budget_that_travels_is_what_is_left() -> None:
    """A call that has waited 4 of its 10 seconds tells the replica that it has 6 (HE2)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica, max_concurrent_queries=1) as router:
            await submitted(router, 2, timeout_s=10)
            await asyncio.sleep(4)
            replica.reply()
            await settle()
            assert replica.arrived[1].budget_ms == pytest.approx(6000, abs=10)

    run(main())


def test_a_waiting_call_that_is_cancelled_is_never_seen() -> None:
    """A client that leaves the queue costs no replica anything (HA6, F26)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica, max_concurrent_queries=1) as router:
            running, gone, last = await submitted(router, 3)
            router.cancel(gone)
            replica.reply()
            await settle()
            assert ids(replica) == ["0", "2"]
            assert gone.future.cancelled()
            assert running.future.done()
            assert not last.future.done()

    run(main())


def test_a_running_call_that_is_cancelled_tells_its_replica() -> None:
    """A client that goes while its call runs: the replica hears of it, and a late answer does no harm (HA6)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica) as router:
            (call,) = await submitted(router, 1)
            router.cancel(call)
            await settle()
            assert replica.cancelled == [1]
            replica.reply(1)

    run(main())


def test_a_new_table_retires_a_replica_that_finishes_its_calls() -> None:
    """A replica that leaves the table gets nothing new, answers what it has, and is then let go (DR3, DR5)."""

    async def main() -> None:
        old, new = ScriptedReplica(), ScriptedReplica()
        async with routed(old) as router:
            (first,) = await submitted(router, 1)
            assert router.apply(table_of(2, {"b": [new]}))
            await settle()
            await submitted(router, 3)
            assert (len(old.arrived), len(new.arrived)) == (1, 3)
            assert old.pipes[0].open
            old.reply()
            assert (await first.future).body == b"ok"
            await settle()
            assert not old.pipes[0].open

    run(main())


def test_a_deleted_backend_fails_what_waits_and_finishes_what_runs() -> None:
    """Calls that wait when backend and endpoint are deleted hear so at once; the one that runs is answered (HA12)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica, max_concurrent_queries=1) as router:
            running, waiting = await submitted(router, 2)
            router.apply(table_of(2, {}))
            with pytest.raises(ServeException, match="there is no endpoint 'b'"):
                await waiting.future
            replica.reply()
            assert (await running.future).body == b"ok"

    run(main())


def test_an_old_table_changes_nothing() -> None:
    """A table that a controller of the past sends late is refused (F9)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica) as router:
            assert router.apply(table_of(3, {"b": [replica]}))
            for version in (1, 2, 3):
                assert not router.apply(table_of(version, {}))
            assert router.table.version == 3
            await submitted(router, 1)
            assert len(replica.calls) == 1

    run(main())


def test_a_handle_may_be_early() -> None:
    """A call to an endpoint that is created a minute later is answered then, each within its own deadline (HA3b)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica) as router:
            with pytest.raises(NoSuchEndpointError):
                router.submit(new_call("new"))
            patient, hasty = new_call("new", timeout_s=300), new_call("new", timeout_s=5)
            router.submit_when_there(patient)
            router.submit_when_there(hasty)
            with pytest.raises(DeadlineExceededError, match="no endpoint 'new'") as missed:
                await hasty.future
            assert not missed.value.started
            await asyncio.sleep(60)
            router.apply(table_of(2, {"b": [replica]}, endpoints={"b": {"b": 1.0}, "new": {"b": 1.0}}))
            await settle()
            assert [head.request.endpoint for head in replica.arrived] == ["new"]
            replica.reply()
            assert (await patient.future).body == b"ok"

    run(main())


def test_user_errors_reach_http_callers_unpickled() -> None:
    """What user code raises arrives as its class and text; HTTP callers never get an object (G10)."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica) as router:
            (call,) = await submitted(router, 1)
            replica.fail(text="bad picture")
            with pytest.raises(UserCodeError, match="ValueError: bad picture"):
                await call.future

    run(main())


def test_a_stream_that_breaks_says_so() -> None:
    """A reader of a streamed answer sees the chunks that came, then that the replica went away, never a clean end."""

    async def main() -> None:
        replica = ScriptedReplica()
        async with routed(replica) as router:
            (call,) = await submitted(router, 1)
            replica.reply(1, b"", stream=True)
            replica.chunk(1, b"one")
            stream = (await call.future).stream
            assert stream is not None
            assert await anext(stream) == b"one"
            replica.die()
            with pytest.raises(StreamBroken, match="went away"):
                await anext(stream)

    run(main())


def test_weights_choose_the_backend_and_not_its_health() -> None:
    """A backend without replicas keeps its share: its calls wait and do not flow over to the other (TR11)."""

    async def main() -> None:
        draws = iter([0.1, 0.9, 0.2, 0.8])
        replica = ScriptedReplica("well")
        router = Router(instance=INSTANCE, draw=lambda: next(draws))
        split = {"e": {"well": 0.5, "dead": 0.5}}
        router.apply(table_of(1, {"well": [replica], "dead": []}, endpoints=split))
        await settle()
        for _ in range(4):
            router.submit(new_call("e"))
        await settle()
        assert len(replica.calls) == 2
        waiting = {statistics.backend: statistics.waiting for statistics in router.statistics()}
        assert waiting == {"well": 0, "dead": 2}
        router.validate()
        await router.aclose()

    run(main())


def test_two_routers_share_a_replica_and_its_limit_holds() -> None:
    """However many routers send, a replica runs no more at once than its limit, and all are answered (BC2)."""

    async def main() -> None:
        async with (
            MemoryReplica(Gate, config=ReplicaConfig(max_concurrent_queries=3)) as replica,
            routed(replica, max_concurrent_queries=3) as one,
            routed(replica, max_concurrent_queries=3) as two,
        ):
            calls = [new_call(timeout_s=600) for _ in range(20)]
            for number, call in enumerate(calls):
                (one, two)[number % 2].submit(call)
            replies = await asyncio.gather(*(call.future for call in calls))
            assert max(int(reply.body) for reply in replies) == 3

    run(main())


def test_a_router_says_when_it_has_reached_new_replicas() -> None:
    """Whoever adds replicas waits until calls can be spread over them (SO1, BC6)."""

    async def main() -> None:
        first, second = ScriptedReplica(), ScriptedReplica()
        router = Router(instance=INSTANCE)
        router.apply(table_of(1, {"b": [first, second]}))
        assert not router.is_connected
        await router.connected()
        assert router.is_connected
        assert router.statistics()[0].open_replicas == 2
        assert asyncio.get_running_loop().time() == 0
        await router.aclose()

    run(main())


def test_a_replica_that_cannot_be_reached_is_not_waited_for_long() -> None:
    """A new replica that has died, or cannot be reached, holds up a change for a second at most; one that is taken out
    of the table does not at all (SO1, G9)."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        dead, lives = ScriptedReplica(), ScriptedReplica()
        dead.die()
        router = Router(instance=INSTANCE)
        router.apply(table_of(1, {"b": [dead, lives]}))
        waiting = asyncio.ensure_future(router.connected())
        await asyncio.sleep(0.5)
        assert not waiting.done()
        router.apply(table_of(2, {"b": [dead, lives], "c": [ScriptedReplica()]}))
        await router.connected()
        assert loop.time() == pytest.approx(1, abs=0.01)
        assert router.statistics()[0].open_replicas == 1
        other = ScriptedReplica()
        other.die()
        router.apply(table_of(3, {"b": [lives, other]}))
        waiting = asyncio.ensure_future(router.connected())
        await asyncio.sleep(0.2)
        router.apply(table_of(4, {"b": [lives]}))
        await waiting
        assert loop.time() == pytest.approx(1.2, abs=0.01)
        await router.aclose()

    run(main())


def test_a_backend_that_is_gone_is_forgotten() -> None:
    """A process that calls backends which come and go for months does not keep them all (BC6)."""

    async def main() -> None:
        replica, passing = ScriptedReplica(), ScriptedReplica("p")
        async with routed(replica) as router:
            for version in range(2, 20, 2):
                router.apply(table_of(version, {"b": [replica], "p": [passing]}))
                await router.connected()
                router.apply(table_of(version + 1, {"b": [replica]}))
                await router.connected()
            assert not router._trying
            assert not router._retired

    run(main())
