"""A call, its reply and its deadline, inside the process that sends it."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Protocol

from pointsman.exceptions import CallRejectedError, ServeException, TooLargeError
from pointsman.incoming import RequestHead
from pointsman.routing.reply import Reply
from pointsman.routing.upward import Upward
from pointsman.telemetry.values import TallyValues
from pointsman.wire.failures import bad_body_of
from pointsman.wire.frames import Body
from pointsman.wire.messages import CallHead

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class CallFuture(Protocol):
    """Receives the outcome of a call: an asyncio future of the router's loop, or an object with the same methods."""

    def done(self) -> bool: ...

    def cancel(self) -> object: ...

    def set_result(self, result: Reply, /) -> None: ...

    def set_exception(self, exception: BaseException, /) -> None: ...


class CallTarget(Protocol):
    """The replica that a call was sent to, as far as the call needs it: :class:`routing.remote.RemoteReplica`."""

    @property
    def version(self) -> int: ...

    def cancel(self, call: Call) -> None: ...

    def grant_credit(self, call_id: int, amount: int) -> None: ...

    def drop_stream(self, call_id: int) -> None: ...


class Call:
    """One request and the state of its delivery.

    The arguments are set by the maker, who gets the outcome through ``future``; all else belongs to the router.

    Args:
        request: the request without its body. Tracing replaces its headers before the call is submitted.
        deadline: in the time of the router's loop.
        future: resolved with the reply or an error; None if a subclass overrides the methods that use it.
        idempotent: whether a call that has started may be repeated on another replica.
        waits_if_full: whether the call waits while the queue is full, instead of failing.
        shadow: whether it mirrors another call. Mirrored calls yield to all others.
        timed: whether the replica reports how long the call waited and ran.

    Attributes:
        arrival: its place in the order in which calls came to its backend's pool.
        sent_at: when it was last sent to a replica; 0 before.
        waited_us, ran_us: times reported by the replica for a timed call.
        held_back: the queue was full, and the call waits to enter it.
        on_admitted: called when the call has entered the queue, or was sent to a replica.
        timer, step: of its deadline, see :class:`Deadlines`.
        up: what is sent behind the call; None for all but calls of apps.
        is_socket: whether it opens a WebSocket, which takes another kind of place.
        tally: where whoever made the call counts what becomes of it, once it is placed; None if that is not counted.
    """

    # hot: one flat object for request and delivery: each further object per call is one more for the garbage collector.

    __slots__ = (
        "arrival", "attempts", "backend", "body", "call_id", "deadline", "future", "held_back", "idempotent",
        "is_socket", "on_admitted", "policy_version", "ran_us", "remote", "request", "sent_at", "shadow", "shard_key",
        "step", "tally", "timed", "timer", "up", "waited_us", "waits_if_full",
    )  # fmt: skip

    def __init__(
        self,
        request: RequestHead,
        body: Body = b"",
        *,
        deadline: float,
        future: CallFuture | None = None,
        shard_key: str | None = None,
        idempotent: bool = False,
        waits_if_full: bool = False,
        shadow: bool = False,
        timed: bool = False,
    ) -> None:
        self.request = request
        self.body = body
        self.deadline = deadline
        self.future = future
        self.shard_key = shard_key
        self.idempotent = idempotent
        self.waits_if_full = waits_if_full
        self.shadow = shadow
        self.timed = timed

        self.backend = ""
        self.policy_version = 0
        self.remote: CallTarget | None = None
        self.call_id = 0
        self.arrival = 0
        self.attempts = 0
        self.sent_at = 0.0
        self.waited_us = self.ran_us = 0
        self.timer: asyncio.TimerHandle | None = None
        self.step: set[Call] | None = None
        self.held_back = False
        self.on_admitted: Callable[[], None] | None = None
        self.up: Upward | None = None
        self.is_socket = False
        self.tally: TallyValues | None = None

    def head(self, now: float) -> CallHead:
        """The message head for sending the call now, with the time left until its deadline."""
        self.sent_at = now
        return CallHead(self.request, max(1, int((self.deadline - now) * 1000)), self.shadow, self.timed)

    def may_be_repeated(self) -> bool:
        """Whether it may run a second time, when it has started on a replica that died."""
        return self.idempotent

    def has_no_place_at(self, remote: object) -> None:
        """A replica has no place for this socket."""

    def was_refused_by(self, remote: object) -> bool:
        """Whether a replica has said so."""
        return False

    def copy_for(self, request: RequestHead, body: Body, future: CallFuture) -> Call:
        """A call that mirrors this one."""
        return Call(request, body, deadline=self.deadline, future=future, shard_key=self.shard_key, shadow=True)

    def wrap(self, around: Callable[[CallFuture], CallFuture]) -> None:
        """Put something around the future of a call that is under way."""
        assert self.future is not None
        self.future = around(self.future)

    def disarm(self) -> None:
        """Stop watching the deadline."""
        if self.step is not None:
            self.step.discard(self)
            self.step = None
        elif self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def is_over(self) -> bool:
        """True once the call has an outcome, or its caller has given it up."""
        assert self.future is not None
        return self.future.done()

    def give_up(self) -> None:
        """Cancel the future: the caller does not want the answer."""
        assert self.future is not None
        if not self.future.done():
            self.future.cancel()

    def succeed(self, reply: Reply) -> None:
        assert self.future is not None
        self.disarm()
        if not self.future.done():
            self.future.set_result(reply)
        elif reply.stream is not None:
            reply.stream.close()

    def fail(self, error: BaseException) -> None:
        assert self.future is not None
        self.disarm()
        if not self.future.done():
            self.future.set_exception(error)


def check_queues(waiting: deque[Call], overflow: deque[Call], shadows: deque[Call], queued: Counter[str]) -> None:
    """Raise AssertionError if a pool's queues contradict one another.

    Args:
        waiting, overflow: calls that wait for a replica, and those that wait for room among them.
        shadows: mirrored calls that wait.
        queued: how many wait, by endpoint.
    """
    assert +queued == Counter(call.request.endpoint for call in waiting), "queue counts differ from the queue"
    assert not any(call.remote for call in (*waiting, *shadows)), "a waiting call is on a replica too"
    assert all(call.shadow for call in shadows), "a call waits among the shadows and is none"
    assert not any(call.shadow for call in (*waiting, *overflow)), "a shadow waits among the others"
    arrivals = [call.arrival for call in waiting if not overflow]
    assert arrivals == sorted(arrivals), "calls wait in another order than they came"


def put_back(call: Call, queue: deque[Call]) -> None:
    """Put a call into a queue, by the order of arrival."""
    place = next((place for place, other in enumerate(queue) if other.arrival > call.arrival), len(queue))
    queue.insert(place, call)


class ClientClosedError(ServeException):
    """The call's own process gave it up."""


def is_error(failure: BaseException) -> bool:
    """Whether a call that failed so is an error in a tally: not if its caller is to blame."""
    if isinstance(failure, (CallRejectedError, TooLargeError, ClientClosedError, asyncio.CancelledError)):
        return False
    return bad_body_of(failure) is None


FAR_S = 10.0
"""Deadlines up to this many seconds away have a timer of their own; later ones share one."""
STEP_S = 0.25
"""Far deadlines expire at the next multiple of this many seconds, so up to this much late."""


class Deadlines:
    """Watches the deadlines of calls that wait or run.

    Args:
        expire: called with each call whose deadline passes before the call is disarmed.
    """

    # hot: most deadlines are far, and never pass: calls share a set and a timer per step, instead of a timer each.

    def __init__(self, expire: Callable[[Call], None]) -> None:
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._steps: dict[int, set[Call]] = {}

    def watch(self, call: Call) -> None:
        """Watch the deadline of ``call`` until ``call.disarm()``."""
        if call.deadline - self._loop.time() <= FAR_S:
            call.timer = self._loop.call_at(call.deadline, self._expire, call)
            return
        number = int(call.deadline / STEP_S) + 1
        step = self._steps.get(number)
        if step is None:
            step = self._steps[number] = set()
            self._loop.call_at(number * STEP_S, self._end_step, number)
        step.add(call)
        call.step = step

    def _end_step(self, number: int) -> None:
        for call in list(self._steps.pop(number)):
            self._expire(call)
