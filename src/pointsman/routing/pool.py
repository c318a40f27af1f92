"""One backend's replicas and the calls that wait for them.

    submit -> a replica with free capacity, or the queue
    reply or failure -> the caller;  refusal or death of the replica -> another replica, or the caller

Calls wait in arrival order, at most ``max_queued_queries`` of them per endpoint. A refused call was not started, and is
always placed again; a call whose replica died is placed again only if it had not started or may be repeated. Mirrored
calls have a separate queue, which is served while no other call waits.

Replicas that run calls one at a time get few ahead, and those are recalled from a replica that is silent for long:
``policy.balance`` says how many and when (decisions 0054, 0073). Calls that are placed again queue by order of arrival.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable

import msgspec.structs

from pointsman.exceptions import BackpressureError
from pointsman.model import BackendRoute, Reason
from pointsman.policy.balance import Throughput, choose_replica
from pointsman.routing.call import Call, ClientClosedError, Deadlines, check_queues, put_back
from pointsman.routing.demand import PoolDemand
from pointsman.routing.holding import Looks
from pointsman.routing.metrics import PoolStatistics, RouterMetrics
from pointsman.routing.refusals import is_refused, not_starting, queue_full, replica_died, too_late
from pointsman.routing.remote import RemoteReplica
from pointsman.routing.reply import Reply
from pointsman.routing.reports import Reporter
from pointsman.routing.sockets import SocketPlaces
from pointsman.wire.failures import failure_to_exception
from pointsman.wire.frames import Body
from pointsman.wire.messages import FailureHead, RefuseHead

MAX_ATTEMPTS = 2
"""How often a call may start. A request that kills replicas must not go through all of them."""


class Pool:
    """Places one router's calls on the replicas of one backend.

    Args:
        route: the backend's entry in the routing table; :meth:`update` takes later ones.
        instance: id of the instance, for the handshakes.
        reroute: called with each call that has not started when the backend is gone.
        metrics: where waiting and retried calls are counted.
        reporter: where it says that it counts, if the route wants that, and that a call finds no replica.

    Attributes:
        serves_users: whether the backend gets calls that are not mirrored.
        arrivals, queues: how many calls have come, each once however often it was placed; and where they wait.
    """

    def __init__(
        self,
        route: BackendRoute,
        *,
        instance: str,
        reroute: Callable[[Call], None],
        metrics: RouterMetrics | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self._metrics = metrics
        self._route = route
        self._instance = instance
        self._reroute = reroute
        self._loop = asyncio.get_running_loop()
        self._remotes: dict[int, RemoteReplica] = {}
        self._candidates: list[RemoteReplica] = []
        self._retiring: list[RemoteReplica] = []
        self._waiting: deque[Call] = deque()
        self._queued: Counter[str] = Counter()
        self._overflow: deque[Call] = deque()
        self._shadows: deque[Call] = deque()
        self._sockets = SocketPlaces()
        self._throughput = Throughput(self._loop.time())
        self._deadlines = Deadlines(self._expire)
        self._next_turn = self.arrivals = 0
        self._recalls = False  # replicas may keep calls waiting while others are free
        self._looks = Looks(lambda: self._candidates)
        self._retired = self.serves_users = self._may_pass = False
        self.queues: tuple[deque[Call], ...] = (self._waiting, self._overflow, self._shadows, self._sockets.waiting)
        self.demand = PoolDemand(self, reporter)
        self.update(route)

    @property
    def tag(self) -> str:
        return self._route.tag

    def update(self, route: BackendRoute) -> None:
        """Connect to added replicas, retire removed ones."""
        self._route = route
        limit = route.max_concurrent_queries if route.one_at_a_time else None
        wanted = {ref.number: ref for ref in route.replicas}
        self.demand.follow(route.scales and not self._retired)
        for number in [number for number in self._remotes if number not in wanted]:
            remote = self._remotes.pop(number)
            remote.retire()
            if wanted and remote.silent_since is not None:
                remote.recall()  # what waits there, for others to run at once
            self._retiring = [r for r in self._retiring if r.under_way] + [remote]
        for number, ref in wanted.items():
            if number not in self._remotes:
                remote = self._remotes[number] = RemoteReplica(ref, self, instance=self._instance)
                remote.start()
            self._remotes[number].one_at_a_time(limit)
            self._remotes[number].counts = self.demand.counts
        self._candidates = list(self._remotes.values())
        self._recalls = route.one_at_a_time and len(self._candidates) > 1
        self.place_waiting()
        for call in self._empty_queues() if is_refused(route) else ():
            call.fail(not_starting(route))
        if self._recalls:
            self._looks.later()

    def submit(self, call: Call) -> None:
        """Send or queue a call; its future will be resolved.

        Raises:
            BackpressureError: the queue is full, and the call does not wait.
        """
        call.backend = self.tag
        self.arrivals += 1
        call.arrival = self.arrivals
        self._deadlines.watch(call)
        if call.is_socket:
            self._sockets.place(call, self._candidates, self._route)
            self._queue_changed()
        elif (not self._waiting or self._may_pass) and not (call.shadow and self._shadows) and self._send(call):
            pass
        elif is_refused(self._route):
            call.disarm()
            raise not_starting(self._route)
        elif call.shadow:
            self._shadows.append(call)
            self._queue_changed()
        elif not self.is_full(call.request.endpoint):
            self._enqueue(call)
        elif call.waits_if_full:
            call.held_back = True
            self._overflow.append(call)
            self._count_waiting(call, 1)
        else:
            call.disarm()
            raise self._queue_full_error(call)

    def cancel(self, call: Call) -> None:
        """Give a call up: remove it from the queue, or have the replica cancel it."""
        call.disarm()
        call.give_up()
        if call.remote is not None:
            call.remote.cancel(call)
        else:
            self._forget(call)
        self.place_waiting()

    def connecting(self) -> list[asyncio.Future[None]]:
        """Of replicas that are new and not reached yet: done when they are, or when nobody waits any more."""
        return [remote.tried for remote in self._candidates if not remote.tried.done()]

    def holders(self) -> tuple[RemoteReplica, ...]:
        """All replicas that may have calls, also those that get no others."""
        return (*self._remotes.values(), *self._retiring)

    @property
    def inflight(self) -> int:
        """Calls and WebSockets on replicas, including replicas that are being retired."""
        return sum(remote.under_way for remote in (*self._candidates, *self._retiring))

    def is_full(self, endpoint: str) -> bool:
        """True if a new call of this endpoint could not enter the queue."""
        waiting, limit = self._queued[endpoint], self._route.max_queued_queries
        return waiting >= limit and waiting >= limit + self._places()

    def _places(self) -> int:
        """Calls that wait here though replicas would take them, and so do not count as queued."""
        if not self._route.one_at_a_time:
            return 0
        return sum(max(0, self._route.max_concurrent_queries - r.inflight) for r in self._candidates if r.open)

    async def aclose(self, reason: str) -> None:
        """Fail the waiting calls and close all connections."""
        self._retired, self._reroute = True, lambda call: call.fail(ClientClosedError(reason))
        self._looks.end()
        for call in self._empty_queues():
            call.fail(ClientClosedError(reason))
        remotes = (*self._remotes.values(), *self._retiring)
        await asyncio.gather(*(remote.aclose() for remote in remotes))

    def retire(self) -> None:
        """Handle the backend's removal: running calls finish, waiting ones are rerouted."""
        if self._route.one_at_a_time:  # what would be in the replicas if they were filled is finished by them
            self._recalls = False
            for remote in self._candidates:
                remote.one_at_a_time(None)
            self.place_waiting()
        self._retired = True
        self.update(msgspec.structs.replace(self._route, replicas=()))
        for call in self._empty_queues():
            self._reroute(call)

    def _empty_queues(self) -> list[Call]:
        calls, counted = [call for queue in self.queues for call in queue], (*self._waiting, *self._overflow)
        for queue in self.queues:
            queue.clear()
        self._queued.clear()
        for call in counted:
            self._count_waiting(call, -1)
        self._queue_changed()
        return calls

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            backend=self.tag,
            waiting=len(self._waiting) + len(self._overflow),
            shadows_waiting=len(self._shadows),
            inflight=self.inflight,
            replicas=len(self._candidates),
            open_replicas=sum(remote.open for remote in self._candidates),
        )

    def validate(self) -> None:
        """Raise AssertionError if the pool's state is inconsistent. Called by tests at their end."""
        check_queues(self._waiting, self._overflow, self._shadows, self._queued)
        self.demand.validate()
        assert not self._overflow or self.is_full(self._overflow[0].request.endpoint), (
            "a call waits for room that is there"
        )

    def _send(self, call: Call) -> bool:
        self._next_turn += 1
        if call.deadline <= self._loop.time():  # the timer is late, and an expired call must not start
            call.fail(too_late(call, self._route))
            return True
        remote = self._choose(call)
        if remote is None:
            return False
        remote.send(call)
        if self._recalls:
            self._looks.later()
        if call.on_admitted is not None:
            call.on_admitted()
        return True

    def _choose(self, call: Call) -> RemoteReplica | None:
        return choose_replica(
            self._candidates,
            limit=self._route.max_concurrent_queries,
            turn=self._next_turn,
            halved=call.shadow and self.serves_users,  # the other half stays free for users' calls (decision 0011)
            crowded=not self._recalls or len(self._waiting) + len(self._overflow) >= len(self._candidates),
        )

    def _enqueue(self, call: Call, *, again: bool = False) -> None:
        self._queued[call.request.endpoint] += 1
        if again:
            put_back(call, self._waiting)
        else:
            self._waiting.append(call)
        self._count_waiting(call, 1)
        if call.on_admitted is not None:
            call.on_admitted()

    def _forget(self, call: Call) -> None:
        if call in self._waiting:
            self._waiting.remove(call)
            self._queued[call.request.endpoint] -= 1
            self._count_waiting(call, -1)
        elif call in self._overflow:
            self._overflow.remove(call)
            self._count_waiting(call, -1)
        else:
            for queue in (self._shadows, self._sockets.waiting):
                if call in queue:
                    queue.remove(call)
                    self._queue_changed()

    def _admit_overflow(self) -> None:
        while self._overflow and not self.is_full(self._overflow[0].request.endpoint):
            call = self._overflow.popleft()
            self._count_waiting(call, -1)
            self._enqueue(call)

    def _count_waiting(self, call: Call, change: int) -> None:
        if self._metrics is not None:
            self._metrics.waits(call.request.endpoint, self.tag, change)
        self._queue_changed()

    def _queue_changed(self) -> None:
        if self.demand.counts is not None:
            self.demand.queued(bool(self._candidates))

    def _queue_full_error(self, call: Call) -> BackpressureError:
        self.demand.turned_away(bool(self._candidates))
        rate, waiting = self._throughput.per_second(self._loop.time()), len(self._waiting) + len(self._overflow)
        return queue_full(self._route, call.request.endpoint, waiting=waiting, per_second=rate)

    def _expire(self, call: Call) -> None:
        if call.is_over():
            return
        call.fail(self._queue_full_error(call) if call in self._overflow else too_late(call, self._route))
        self.cancel(call)

    def _retry(self, call: Call, reason: Reason) -> None:
        call.remote = None
        if call.is_over():
            return
        if self._metrics is not None and reason is not Reason.RECALLED:
            self._metrics.retried(call.request.endpoint, self.tag, reason.value)
        if self._retired:
            self._reroute(call)
        elif call.is_socket:
            self._sockets.waiting.append(call)
            self.place_waiting()
        elif call.shadow:
            put_back(call, self._shadows)
            self._queue_changed()
        else:
            self._enqueue(call, again=True)

    # RemoteOwner

    def place_waiting(self) -> None:
        """Place waiting calls while there is free capacity."""
        if self._sockets.waiting:
            self._sockets.place_waiting(self._candidates, self._route)
            self._queue_changed()
        while True:
            self._admit_overflow()
            queue = self._waiting or self._overflow or self._shadows
            if not queue:
                if self._recalls:
                    self._looks.later()
                return
            call = queue[0]
            if not call.is_over() and not self._send(call):
                return
            queue.popleft()
            if queue is self._shadows:
                self._queue_changed()
            else:
                self._count_waiting(call, -1)
            if queue is self._waiting:
                self._queued[call.request.endpoint] -= 1

    def replica_free(self, *, idle: bool) -> None:
        """One has said that another call can begin there; with ``idle`` it had none at all."""
        if self._recalls and not self._waiting:
            self._looks.look(idle=idle)

    def call_replied(self, call: Call, reply: Reply) -> None:
        self._throughput.note(self._loop.time())
        call.succeed(reply)

    def call_failed(self, call: Call, failure: FailureHead, pickled: Body) -> None:
        self._throughput.note(self._loop.time())
        # An exception of a mirrored call is not unpickled: nobody uses it, and unpickling runs user code.
        call.fail(failure_to_exception(failure, pickled, trusted=bool(call.request.codec) and not call.shadow))

    def call_refused(self, call: Call, refusal: RefuseHead, remote: RemoteReplica) -> None:
        if call.is_socket and refusal.reason is Reason.QUEUE_FULL:  # it may have room for calls
            call.has_no_place_at(remote)
        elif refusal.reason is not Reason.RECALLED:
            remote.refuses_calls(refusal.reason)
        call.attempts -= 1  # a refused call was not started, so it was no attempt
        if self._retired and refusal.reason is Reason.RECALLED and not call.is_over() and remote.send_again(call):
            return  # it was asked for before the backend was deleted; now no other replica can run it
        self._retry(call, refusal.reason)

    def calls_orphaned(self, calls: list[Call], started: frozenset[int] | None) -> None:
        # The last one first: so each finds its place at the front of the queue, mostly.
        for call in reversed(calls):
            if started is not None and call.call_id not in started:
                call.attempts -= 1  # it had only waited in the replica, so it was no attempt
                self._retry(call, Reason.REPLICA_DIED)
            elif call.may_be_repeated() and call.attempts < MAX_ATTEMPTS:
                self._retry(call, Reason.REPLICA_DIED)
            else:
                call.fail(replica_died(self.tag))
        self.place_waiting()
