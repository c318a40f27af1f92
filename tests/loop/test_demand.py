"""What routers count of calls: exact for any sequence of events, sent each half second, and at once when it matters."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.controller.scaling.demand import Collector
from pointsman.exceptions import BackpressureError, DeadlineExceededError
from pointsman.incoming import RequestHead
from pointsman.ingress.codec import answer_for
from pointsman.model import Reason, RoutingTable
from pointsman.model.scaling import Demand
from pointsman.routing.appcalls import AppCall
from pointsman.routing.call import Call
from pointsman.routing.refusals import NotStartingError
from pointsman.routing.reports import URGENT_S, Reports
from pointsman.routing.router import Router
from pointsman.testing import INSTANCE, ScriptedReplica, new_call, run, settle, table_of, virtual_loop
from pointsman.wire.messages import SOCKET, AppPart
from pointsman.wire.scaling import DEMAND_PERIOD_S, DemandHead
from tests.loop.counted import Told, counting, scaling
from tests.properties import examples

GRID_S = 0.001
"""All that happens in the property test happens at multiples of this."""


class Reference:
    """Counts by looking at every call at every moment."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.open: dict[Call, Any] = {}
        """Streams that have not ended."""
        self.call_s = self.waiting_s = 0.0
        self.ended: list[float] = []

    def waiting(self) -> int:
        return sum(not call.is_over() and call.remote is None for call in self.calls)

    def running(self) -> int:
        return sum(not call.is_over() and call.remote is not None for call in self.calls) + len(self.open)

    def end(self, call: Call) -> None:
        self.ended.append(virtual_loop().time() - call.sent_at)

    async def passes(self, ticks: int) -> None:
        for _ in range(ticks):
            await settle()
            self.call_s += (self.waiting() + self.running()) * GRID_S
            self.waiting_s += self.waiting() * GRID_S
            await asyncio.sleep(GRID_S)
        await settle()

    def is_as(self, found: Demand) -> None:
        assert found.call_s == pytest.approx(self.call_s, abs=1e-6)
        assert found.waiting_s == pytest.approx(self.waiting_s, abs=1e-6)
        assert (found.arrivals, found.ended) == (len(self.calls), len(self.ended))
        assert found.ran_s == pytest.approx(sum(self.ended), abs=1e-6)
        assert found.ran_s2 == pytest.approx(sum(ran * ran for ran in self.ended), abs=1e-6)
        assert (found.waiting, found.running) == (self.waiting(), self.running())


class Play:
    """What callers, replicas and operators do to a router."""

    def __init__(self, link: Told, *, multiplexed: bool) -> None:
        self.reference = Reference()
        self.multiplexed = multiplexed
        self.link = link
        self.version = 1
        self.alive: dict[int, ScriptedReplica] = {}
        self.dead: list[ScriptedReplica] = []
        self.shown = [self.new(), self.new()]

    def new(self) -> ScriptedReplica:
        replica = ScriptedReplica()
        self.alive[replica.ref.number] = replica
        return replica

    def table(self) -> RoutingTable:
        table = table_of(self.version, {"b": self.shown}, max_concurrent_queries=2, max_queued_queries=4)
        return scaling(table, multiplexed=self.multiplexed)

    def submit(self, router: Router, what: int) -> None:
        request_id = str(len(self.reference.calls))
        if what == 3:
            head, future = RequestHead("b", request_id=request_id), virtual_loop().create_future()
            call: Call = AppCall(
                head, app=AppPart(follows=SOCKET), deadline=virtual_loop().time() + 0.15, future=future
            )
        else:
            model_id = "m" if self.multiplexed and what != 1 else ""
            fields: Any = {"shadow": what == 1, "waits_if_full": what == 2, "model_id": model_id}
            call = new_call(request_id=request_id, timeout_s=0.15, **fields)
        call.future.add_done_callback(lambda future: future.cancelled() or future.exception())
        self.reference.calls.append(call)
        try:
            router.submit(call)
        except Exception as error:  # noqa: BLE001 - a full queue, as handles have it
            call.fail(error)

    def at_replicas(self) -> list[Call]:
        return [call for call in self.reference.calls if call.remote is not None and not call.is_over()]

    def answer(self, call: Call, how: int) -> None:
        replica = self.alive.get(call.remote.ref.number)
        if replica is None or call.call_id not in replica.calls:
            return
        if how == 0 or (how == 3 and call.is_socket):
            replica.refuse(call.call_id, reason=Reason.QUEUE_FULL if how == 0 else Reason.RECONFIGURING)
        elif how == 1:
            self.reference.end(call)
            replica.fail(call.call_id)
        elif how == 2 or call.is_socket:
            replica.reply(call.call_id, stream=True, status=101 if call.is_socket else 200)
            self.reference.open[call] = replica
        else:
            self.reference.end(call)
            replica.reply(call.call_id)

    def end_stream(self, call: Call, how: int) -> None:
        replica = self.reference.open.pop(call)
        self.reference.end(call)
        if how == 0:
            call.future.result().stream.close()
        elif how == 1:
            replica.fail(call.call_id)
        else:
            replica.end(call.call_id)

    def kill(self, replica: ScriptedReplica) -> None:
        del self.alive[replica.ref.number]
        for call in [call for call, there in self.reference.open.items() if there is replica]:
            del self.reference.open[call]
        replica.die()

    def change(self, router: Router, count: int) -> None:
        self.version += 1
        living = [replica for replica in self.shown if replica.ref.number in self.alive]
        self.shown = living[:count]  # one that has left does not come back
        while len(self.shown) < count:
            self.shown = [*self.shown, self.new()]
        router.apply(self.table())


acts = st.lists(
    st.tuples(
        st.sampled_from(["submit"] * 5 + ["answer"] * 4 + ["end"] * 2 + ["cancel", "kill", "change", "wait"]),
        st.integers(0, 3),
        st.integers(0, 99),
        st.integers(0, 30),
    ),
    min_size=10,
    max_size=60,
)


async def act(play: Play, router: Router, what: str, how: int, pick: int) -> None:
    running, streams = play.at_replicas(), list(play.reference.open)
    waiting = [call for call in play.reference.calls if not call.is_over()]
    if what == "submit":
        play.submit(router, how)
    elif what == "answer" and running:
        play.answer(running[pick % len(running)], how)
    elif what == "end" and streams:
        play.end_stream(streams[pick % len(streams)], how)
    elif what == "cancel" and waiting:
        router.cancel(waiting[pick % len(waiting)])
    elif what == "kill" and play.alive and pick < 40:
        play.kill(list(play.alive.values())[pick % len(play.alive)])
    elif what == "change":
        play.change(router, how)


@pytest.mark.parametrize("multiplexed", [False, True])
@examples(20)
@given(script=acts)
def test_the_integral_of_calls_is_exact(multiplexed: bool, script: list[tuple[str, int, int, int]]) -> None:
    """Whatever callers, replicas and operators do, the seconds that calls wait and run are those that a clock beside
    each call would show; mirrored calls, WebSockets and streams to their end are among them (AS11)."""

    async def main() -> None:
        link = Told()
        play = Play(link, multiplexed=multiplexed)
        async with counting(play.table(), link) as router:
            for what, how, pick, ticks in script:
                await settle()
                await act(play, router, what, how, pick)
                await play.reference.passes(ticks)
                play.reference.is_as(router._pools["b"].demand.read())
            await play.reference.passes(round(DEMAND_PERIOD_S / GRID_S) + 1)
            collector = Collector(virtual_loop().time)
            for _, backends in link.frames:
                collector.reported(1, DemandHead(backends))
            assert collector.demand_of("b").arrivals == len(play.reference.calls)
            assert collector.demand_of("b").ended == len(play.reference.ended)
            play.change(router, 0)

    run(main())


def sleeping(version: int = 1, **fields: Any) -> RoutingTable:
    """Backend ``b`` without a replica."""
    return scaling(table_of(version, {"b": []}, max_queued_queries=2), **fields)


def test_a_call_that_finds_no_replica_is_told_at_once() -> None:
    """The first request to a sleeping backend wakes it at once, and a burst is known in full a twentieth of a second
    later (AS14)."""

    async def main() -> None:
        link = Told()
        async with counting(sleeping(), link) as router:
            await asyncio.sleep(0.2)
            router.submit(new_call())
            await settle()
            assert [(at, demand.waiting) for at, demand in link.of("b")] == [(0.2, 1)]
            await asyncio.sleep(0.01)
            router.submit(new_call())
            await asyncio.sleep(URGENT_S)
            assert [demand.waiting for _, demand in link.of("b")] == [1, 2]
            assert link.of("b")[-1][0] <= 0.2 + 0.01 + URGENT_S

    run(main())


def test_a_call_that_may_not_wait_wakes_its_backend_for_the_next() -> None:
    """Where no call may wait, the first is refused, and a replica is started all the same (AS14)."""

    async def main() -> None:
        link = Told()
        async with counting(scaling(table_of(1, {"b": []}, max_queued_queries=0)), link) as router:
            with pytest.raises(BackpressureError):
                router.submit(new_call())
            await asyncio.sleep(2)
            assert [demand.waiting for _, demand in link.of("b")] == [1, 0]

    run(main())


def test_mirrored_calls_and_sockets_wake_too() -> None:
    """A shadow that sleeps is woken by copies, an app by a WebSocket (AS11)."""

    async def main(**fields: Any) -> None:
        link = Told()
        async with counting(sleeping(), link) as router:
            future = virtual_loop().create_future()
            head, deadline = RequestHead("b"), virtual_loop().time() + 60
            socket = AppCall(head, app=AppPart(follows=SOCKET), deadline=deadline, future=future)
            router.submit(new_call(shadow=True) if fields else socket)
            await settle()
            assert [demand.waiting for _, demand in link.of("b")] == [1]

    run(main())
    run(main(shadow=True))


def test_counts_are_told_each_half_second_while_there_is_something_to_tell() -> None:
    """A router says what it has counted each half second, and nothing while nothing changes."""

    async def main() -> None:
        link, replica = Told(), ScriptedReplica()
        async with counting(scaling(table_of(1, {"b": [replica]})), link) as router:
            await asyncio.sleep(2.2)
            assert link.of("b") == [(0.5, Demand())]
            router.submit(new_call())
            await asyncio.sleep(1.0)
            replica.reply()
            await asyncio.sleep(5.0)
            told = link.of("b")[1:]
            assert [at for at, _ in told] == pytest.approx([2.5, 3.0, 3.5])
            assert [demand.call_s for _, demand in told] == pytest.approx([0.3, 0.8, 1.0])
            assert told[-1][1] == Demand(pytest.approx(1.0), 0.0, 1, 1, pytest.approx(1.0), pytest.approx(1.0), 0, 0)

    run(main())


def test_nothing_is_counted_where_nobody_asks() -> None:
    """A backend with a fixed number of replicas costs its calls nothing: nothing is counted, no timer runs."""

    async def main() -> None:
        link, replica = Told(), ScriptedReplica()
        async with counting(table_of(1, {"b": [replica], "c": []}), link) as router:
            router.submit(new_call())
            router.submit(new_call("c"))
            await asyncio.sleep(5)
            assert router._pools["b"].demand.read() == Demand()
            assert all(holder.counts is None for holder in router._pools["b"].holders())
            assert link.frames == []

    run(main())


def test_counting_begins_and_ends_with_the_route() -> None:
    """A backend that is made to follow its calls is counted from then on, with the calls that it has; when it is fixed
    again it is not."""

    async def main() -> None:
        link, replica = Told(), ScriptedReplica()
        fixed = {"b": [replica]}
        async with counting(table_of(1, fixed, max_concurrent_queries=1), link) as router:
            for _ in range(2):
                router.submit(new_call())
            await asyncio.sleep(3)
            router.apply(scaling(table_of(2, fixed, max_concurrent_queries=1)))
            await asyncio.sleep(1)
            found = router._pools["b"].demand.read()
            assert (found.call_s, found.waiting_s) == (pytest.approx(2), pytest.approx(1))
            assert (found.arrivals, found.waiting, found.running) == (2, 1, 1)
            replica.reply()
            await settle()
            assert router._pools["b"].demand.read().call_s == pytest.approx(2)
            router.apply(table_of(3, fixed, max_concurrent_queries=1))
            await asyncio.sleep(1)
            assert router._pools["b"].demand.read() == Demand()
            before = len(link.frames)
            await asyncio.sleep(5)
            assert len(link.frames) == before
            router.apply(scaling(table_of(4, fixed, max_concurrent_queries=1)))
            await asyncio.sleep(0.5)
            assert link.of("b")[-1][1].arrivals == 1

    run(main())


def test_what_a_call_waits_in_a_serial_replica_is_no_work() -> None:
    """A replica that runs calls one at a time has some ahead: these wait, and do not make calls look longer."""

    async def main() -> None:
        link, replica = Told(), ScriptedReplica()
        async with counting(scaling(table_of(1, {"b": [replica]}, one_at_a_time=True)), link) as router:
            router.submit(new_call())
            await asyncio.sleep(0.004)
            replica.reply(run_us=4000)
            await settle()
            for _ in range(3):
                router.submit(new_call())
            await settle()
            assert len(replica.calls) == 3
            for _ in range(3):
                await asyncio.sleep(0.004)
                replica.reply(run_us=4000)
                await settle()
            found = router._pools["b"].demand.read()
            assert found.call_s == pytest.approx(0.004 + 0.004 + 0.008 + 0.012)
            assert found.ran_s == pytest.approx(4 * 0.004)

    run(main())


def test_routers_of_one_process_are_added_up() -> None:
    """Handles of several event loops are one counter of their process; what one has counted stays when it is gone."""

    async def main() -> None:
        link, replica = Told(), ScriptedReplica()
        reports = Reports(link)
        routers = [Router(instance=INSTANCE, reporter=reports.reporter()) for _ in range(2)]
        for router in routers:
            router.apply(scaling(table_of(1, {"b": [replica]})))
        await settle()
        for router in routers:
            router.submit(new_call())
        await asyncio.sleep(1.2)
        told = link.of("b")[-1][1]
        assert (told.call_s, told.arrivals, told.running) == (pytest.approx(2.0), 2, 2)
        await routers[0].aclose()
        told = link.of("b")[-1][1]
        assert (told.call_s, told.arrivals, told.running) == (pytest.approx(2.2), 2, 1)
        await routers[1].aclose()
        told = link.of("b")[-1][1]
        assert (told.call_s, told.arrivals, told.running) == (pytest.approx(2.4), 2, 0)

    run(main())


def test_a_new_controller_gets_what_there_was_before_it_first() -> None:
    """A controller that begins while calls run adds up what comes from then on, and knows at once how many there are
    (AS20)."""

    async def main() -> None:
        link, replica = Told(), ScriptedReplica()
        async with counting(scaling(table_of(1, {"b": [replica]})), link) as router:
            for _ in range(3):
                router.submit(new_call())
            await asyncio.sleep(10.1)
            link.up = False
            await asyncio.sleep(4)
            link.up, link.links = True, 2
            link.frames.clear()
            collector = Collector(virtual_loop().time)
            await asyncio.sleep(0.5)
            for _, backends in link.frames:
                collector.reported(1, DemandHead(backends))
            found = collector.demand_of("b")
            assert found.running == 3
            assert found.arrivals == 0
            assert found.call_s <= 3 * 2 * DEMAND_PERIOD_S

    run(main())


def test_a_call_that_is_late_learns_when_a_replica_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call whose deadline passes while its backend starts is told how long the start still takes, and so is one that
    finds the queue full (AS14)."""
    monkeypatch.setattr("pointsman.routing.refusals.wall_clock", lambda: 1000.0)

    async def main() -> None:
        async with counting(sleeping(ready_at=1012.4), Told()) as router:
            calls = [new_call(timeout_s=2.0) for _ in range(2)]
            for call in calls:
                router.submit(call)
            with pytest.raises(BackpressureError, match="already wait") as full:
                router.submit(new_call())
            assert full.value.retry_after == 13
            await asyncio.sleep(2.5)
            for call in calls:
                late = call.future.exception()
                assert isinstance(late, DeadlineExceededError)
                assert (late.started, late.retry_after) == (False, 13)
                answer = answer_for(late)
                assert (answer.status, answer.headers) == (503, [(b"retry-after", b"13")])

    run(main())


def test_calls_are_refused_at_once_where_replicas_fail_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """After three failed starts nobody waits for the next: requests get a 503 with the time of the next try, handles an
    error that has it; and then calls wait again (AS14)."""
    now = [1000.0]
    monkeypatch.setattr("pointsman.routing.refusals.wall_clock", lambda: now[0])

    async def main() -> None:
        link = Told()
        async with counting(sleeping(), link) as router:
            waiting, copy = new_call(), new_call(shadow=True)
            for call in (waiting, copy):
                router.submit(call)
            await settle()
            router.apply(sleeping(2, refused_until=1008.0))
            await settle()
            for call in (waiting, copy):
                assert isinstance(call.future.exception(), NotStartingError)
            with pytest.raises(BackpressureError, match="have failed, and the next is tried in 8 s") as refused:
                router.submit(new_call(waits_if_full=True))
            assert refused.value.retry_after == 8
            answer = answer_for(refused.value)
            assert (answer.status, answer.headers) == (503, [(b"retry-after", b"8")])
            socket = AppCall(
                RequestHead("b"), app=AppPart(follows=SOCKET), deadline=60.0, future=virtual_loop().create_future()
            )
            with pytest.raises(NotStartingError):
                router.submit(socket)
            now[0] = 1008.0
            router.submit(new_call())
            await asyncio.sleep(URGENT_S)
            assert link.of("b")[-1][1].waiting == 1

    run(main())
