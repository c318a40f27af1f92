"""A call and what comes back, inside the process that sends it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

import msgspec

from pointsman.incoming import RequestHead
from pointsman.wire.frames import Body
from pointsman.wire.messages import CallHead, FailureHead

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


class CallFuture(Protocol):
    """Where the outcome of a call goes: an asyncio future of the router's loop, or what stands in for one."""

    def done(self) -> bool: ...

    def cancel(self) -> object: ...

    def set_result(self, result: Reply, /) -> None: ...

    def set_exception(self, exception: BaseException, /) -> None: ...


class Carrier(Protocol):
    """The replica that has a call, as its connection is seen from the call: :class:`routing.remote.RemoteReplica`."""

    def cancel(self, call: Call) -> None: ...

    def grant_credit(self, call_id: int, chunks: int) -> None: ...

    def drop_stream(self, call_id: int) -> None: ...


class Call:
    """One request and how far it has come.

    The maker fills the first group and learns the outcome through ``future``; the router owns the rest. A ``shadow``
    call yields to all others.

    Args:
        request: all of it but its body. Traced, it gets other headers before the call is submitted.
        deadline: in the time of the router's loop.
        idempotent: whether a call that has started may be repeated elsewhere.
        waits_for_room: whether it waits for a place in a full queue instead of failing.
        timed: whether the replica is to say how long it waited and ran.

    Attributes:
        sent_at: when it was last given to a replica.
        waited_us, ran_us: what the replica said of a timed call.
        held_back: whether the queue was full, and the call waits for a place in it.
        on_admitted: told when the call has a place in the queue, or with a replica.
    """

    __slots__ = (
        "attempts", "backend", "body", "call_id", "deadline", "future", "held_back", "idempotent", "on_admitted",
        "policy_version", "ran_us", "remote", "request", "sent_at", "shadow", "shard_key", "step", "timed", "timer",
        "waited_us", "waits_for_room",
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
        waits_for_room: bool = False,
        shadow: bool = False,
        timed: bool = False,
    ) -> None:
        self.request = request
        self.body = body
        self.deadline = deadline
        self.future = future
        self.shard_key = shard_key
        self.idempotent = idempotent
        self.waits_for_room = waits_for_room
        self.shadow = shadow
        self.timed = timed

        self.backend = ""
        self.policy_version = 0
        self.remote: Carrier | None = None
        self.call_id = 0
        self.attempts = 0
        self.sent_at = 0.0
        self.waited_us = self.ran_us = 0
        self.timer: asyncio.TimerHandle | None = None
        self.step: set[Call] | None = None
        self.held_back = False
        self.on_admitted: Callable[[], None] | None = None

    def head(self, now: float) -> CallHead:
        """The call's head as it is sent now: the budget is what is left until the deadline."""
        self.sent_at = now
        return CallHead(self.request, max(1, int((self.deadline - now) * 1000)), self.shadow, self.timed)

    def disarm(self) -> None:
        """The deadline does not matter any more."""
        if self.step is not None:
            self.step.discard(self)
            self.step = None
        elif self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def is_over(self) -> bool:
        """Whether the caller knows the outcome, or does not want to."""
        assert self.future is not None
        return self.future.done()

    def give_up(self) -> None:
        """The caller does not want the answer."""
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


class Reply(msgspec.Struct, frozen=True):
    """An answer: HTTP status, headers and bytes, or a pickled object, or a stream of either."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: Body
    stream: ReplyStream | None = None


class StreamBroken(Exception):
    """The stream ended before its end; ``failure`` says why when user code raised."""

    def __init__(self, text: str, failure: FailureHead | None = None, pickled: Body = b"") -> None:
        super().__init__(text)
        self.failure = failure
        self.pickled = pickled


class ReplyStream:
    """The chunks of a streamed answer, for one reader; at most a window of them is in memory.

    Leave early with :meth:`close`, which cancels the producer.
    """

    CREDIT_STEP = 8
    """The reader's room is reported in steps of this many chunks."""

    def __init__(self, remote: Carrier, call_id: int) -> None:
        self._remote = remote
        self._call_id = call_id
        self._chunks: deque[Body] = deque()
        self._taken = 0
        self._end: Exception | None = None
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> ReplyStream:
        return self

    async def __anext__(self) -> Body:
        while not self._chunks:
            if self._end is not None:
                raise self._end
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        self._taken += 1
        if self._taken == self.CREDIT_STEP:
            self._taken = 0
            self._remote.grant_credit(self._call_id, self.CREDIT_STEP)
        return self._chunks.popleft()

    def close(self) -> None:
        """Stop reading; the replica cancels what makes the rest. A reader that waits for more is at the end."""
        if not self._ended:
            self._ended = True
            self._chunks.clear()
            self._remote.drop_stream(self._call_id)
            self._wake()

    def feed(self, chunk: Body) -> None:
        if not self._ended:
            self._chunks.append(chunk)
            self._wake()

    def finish(self, error: Exception | None = None) -> None:
        if not self._ended:
            self._ended = True
            self._end = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


FAR_S = 10.0
STEP_S = 0.25
"""Far deadlines go off at the end of the step of so many seconds that they lie in."""


class Deadlines:
    """The deadlines of calls that wait or run.

    Args:
        expire: told of each call whose deadline has passed and that was not disarmed before.
    """

    def __init__(self, expire: Callable[[Call], None]) -> None:
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._steps: dict[int, set[Call]] = {}

    def watch(self, call: Call) -> None:
        """Until ``call.disarm()``."""
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
