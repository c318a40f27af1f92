"""routing: one router, its pools, and replicas in memory that answer as the test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from pointsman.exceptions import (
    BackpressureError,
    DeadlineExceededError,
    ServeException,
    UserCodeError,
)
from pointsman.model import CustomPolicy, Pins, Reason, ReplicaConfig, RoutingTable
from pointsman.policy.rendezvous import Rendezvous
from pointsman.policy.traffic import CallInfo, TrafficSplit
from pointsman.routing.call import Call, StreamBroken
from pointsman.routing.router import NoSuchEndpointError, Router
from pointsman.testing import INSTANCE, MemoryReplica, ScriptedReplica, new_call, run, settle, table_of
from pointsman.wire.messages import pack, unpack
from tests.loop.models import Gate, echo_async, echo_sync


class TakeTurns:
    """A user's own policy: one backend after the other."""

    def choose(self, call: CallInfo, split: TrafficSplit, draw: float) -> str:
        tags = sorted(split.weights)
        return tags[call.number % len(tags)]


@contextlib.asynccontextmanager
async def routed(*replicas: Any, **options: Any) -> AsyncIterator[Router]:
    """A router with one backend and endpoint ``b``; at the end it must not contradict itself."""
    router = Router(instance=INSTANCE, draw=lambda: 0.5)
    router.apply(table_of(1, {"b": list(replicas)}, **options))
    await settle()
    yield router
    await settle()
    router.validate()
    await router.aclose()


async def submitted(router: Router, count: int, **fields: Any) -> list[Call]:
    calls = [new_call(request_id=str(number), **fields) for number in range(count)]
    for call in calls:
        router.submit(call)
    await settle()
    return calls


def ids(replica: ScriptedReplica) -> list[str]:
    """Request ids of the calls that ever arrived, in order."""
    return [head.request_id for head in replica.arrived]


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
            patient, hasty = (
                new_call(waits_for_room=True, timeout_s=s, request_id=i) for s, i in ((50, "p"), (5, "h"))
            )
            for call in (patient, hasty):
                call.on_admitted = lambda call=call: admitted.append(call.request_id)  # type: ignore[misc]
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
    """A call that has waited 4 of its 10 seconds tells the replica that it has 6 (design 4.7)."""

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
    """A table that a controller of the past sends late is refused (design 5, F9)."""

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
            assert [head.endpoint for head in replica.arrived] == ["new"]
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


# --- keys, pins, and policies of one's own --------------------------------------------------------------------

FIVE = dict.fromkeys("vwxyz", 0.2)


@contextlib.asynccontextmanager
async def splitting(table: RoutingTable, draw: float = 0.5) -> AsyncIterator[Router]:
    """A router with a table; at the end it must not contradict itself."""
    router = Router(instance=INSTANCE, draw=lambda: draw)
    router.apply(table)
    await settle()
    yield router
    await settle()
    router.validate()
    await router.aclose()


def several(tags: str) -> dict[str, ScriptedReplica]:
    return {tag: ScriptedReplica(tag) for tag in tags}


def table_for(version: int, replicas: dict[str, ScriptedReplica], weights: dict[str, float], **options: Any) -> Any:
    """Endpoint ``e``, split among these backends."""
    backends = {tag: [replica] for tag, replica in replicas.items()}
    return table_of(version, backends, endpoints={"e": weights}, **options)


def pinned(table: RoutingTable, **keys: str) -> RoutingTable:
    return msgspec.structs.replace(table, pins={"e": pack(Pins(keys))})


def test_a_key_stays_with_its_backend() -> None:
    """Five backends at 0.2, twenty users with five requests: everyone has one backend, in each router (SA1, SA3)."""

    async def main() -> None:
        replicas = several("vwxyz")
        table = table_for(1, replicas, FIVE)
        async with splitting(table, 0.1) as one, splitting(table, 0.9) as other:
            users = [f"user {number}" for number in range(20)]
            for router in (one, other):
                for user in users * 5:
                    router.submit(new_call("e", shard_key=user, request_id=user))
            await settle()
            homes = {user: {tag for tag, replica in replicas.items() if user in ids(replica)} for user in users}
            owner = Rendezvous("e", FIVE).owner
            assert homes == {user: {owner(user)} for user in users}
            assert sum(len(replica.arrived) for replica in replicas.values()) == 200
            assert len({owner(user) for user in users}) > 1

    run(main())


def test_a_pin_holds_from_the_next_table_on() -> None:
    """A pinned user is sent to the pinned backend, weight or not, and back home when the pin is gone (SA1, SA8)."""

    async def main() -> None:
        replicas = several("abc")
        weights = {"a": 0.5, "b": 0.5}
        async with splitting(table_for(1, replicas, weights)) as router:
            home = Rendezvous("e", weights).owner("alice")
            for version, pins in ((2, {"alice": "c"}), (3, {"alice": "c", "bob": "a"}), (4, {})):
                router.submit(new_call("e", shard_key="alice", request_id=f"before {version}"))
                router.apply(pinned(table_for(version, replicas, weights), **pins))
            router.submit(new_call("e", shard_key="alice", request_id="last"))
            await settle()
            assert ids(replicas["c"]) == ["before 3", "before 4"]
            assert ids(replicas[home]) == ["before 2", "last"]

    run(main())


def test_pins_are_unpacked_when_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ten thousand pinned users, a new split or a new replica does not stop requests for the time that it takes
    to read all pins again (G8)."""

    async def main() -> None:
        unpacked: list[bytes] = []

        def noted(data: bytes, kind: type[Pins]) -> Pins:
            unpacked.append(data)
            return unpack(data, kind)

        monkeypatch.setattr("pointsman.routing.router.unpack", noted)
        replicas = several("abc")
        async with splitting(pinned(table_for(1, replicas, {"a": 1.0}), alice="c")) as router:
            router.apply(pinned(table_for(2, replicas, {"b": 1.0}), alice="c"))
            replicas["b"] = ScriptedReplica("b")
            router.apply(pinned(table_for(3, replicas, {"b": 1.0}), alice="c"))
            await submitted(router, 1, endpoint="e", shard_key="alice")
            assert (len(unpacked), len(replicas["c"].arrived)) == (1, 1)
            router.apply(pinned(table_for(4, replicas, {"b": 1.0}), alice="a"))
            router.apply(table_for(5, replicas, {"b": 1.0}))
            router.apply(table_for(6, replicas, {"c": 1.0}))
            await submitted(router, 1, endpoint="e", shard_key="alice")
            assert (len(unpacked), len(replicas["c"].arrived)) == (2, 2)

    run(main())


def test_a_call_knows_its_policy() -> None:
    """A call carries backend and version of the policy that placed it, so that answers can name both (SA2)."""

    async def main() -> None:
        replicas = several("ab")
        async with splitting(table_for(7, replicas, {"a": 1.0})) as router:
            (first,) = await submitted(router, 1, endpoint="e")
            router.apply(table_for(9, replicas, {"b": 1.0}))
            (second,) = await submitted(router, 1, endpoint="e")
            assert [(call.backend, call.policy_version) for call in (first, second)] == [("a", 7), ("b", 9)]

    run(main())


def test_other_changes_leave_a_policy_at_work() -> None:
    """A policy's count of calls goes on when a replica comes or another endpoint changes, and begins anew with it."""

    async def main() -> None:
        def custom(version: int, policy_version: int) -> RoutingTable:
            table = table_for(version, replicas, {"a": 0.5, "b": 0.5})
            spec = table.endpoints["e"]
            policy = msgspec.structs.replace(
                spec.policy, version=policy_version, custom=CustomPolicy(f"{__name__}:TakeTurns")
            )
            endpoints = {"e": msgspec.structs.replace(spec, policy=policy)}
            return msgspec.structs.replace(table, endpoints=endpoints)

        replicas = several("ab")
        async with splitting(custom(1, 1)) as router:
            chosen = [call.backend for call in await submitted(router, 3, endpoint="e")]
            replicas["b"] = ScriptedReplica("b")
            router.apply(custom(2, 1))
            chosen += [call.backend for call in await submitted(router, 2, endpoint="e")]
            assert chosen == ["a", "b", "a", "b", "a"]
            router.apply(custom(3, 3))
            assert [call.backend for call in await submitted(router, 1, endpoint="e")] == ["a"]
            router.apply(pinned(custom(4, 3), alice="b"))
            assert [call.backend for call in await submitted(router, 1, endpoint="e")] == ["a"]

    run(main())


# --- backends that are deleted while calls wait for them ------------------------------------------------------


def test_calls_that_wait_follow_their_endpoint() -> None:
    """What waits for a backend that is deleted, with a place or for one, goes where the endpoint leads now (F30)."""

    async def main() -> None:
        replicas = several("on")
        limits: dict[str, Any] = {"max_concurrent_queries": 1, "max_queued_queries": 2}
        async with splitting(table_for(1, replicas, {"o": 1.0}, **limits)) as router:
            calls = await submitted(router, 6, endpoint="e", waits_for_room=True)
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
