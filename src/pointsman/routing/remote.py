"""A router's connection to one replica, and the calls on it.

The pool gives it calls to send; it turns received frames into outcomes. It does not know queues, weights or retries.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator
from typing import Protocol

from pointsman.exceptions import CallRejectedError, TooLargeError
from pointsman.model import Reason, ReplicaRef
from pointsman.routing.call import Call
from pointsman.routing.demand import Counts, Sent
from pointsman.routing.holding import PAUSES_S, Holding
from pointsman.routing.reply import ByteStream, Reply, ReplyStream, StreamBroken
from pointsman.routing.upward import Upward
from pointsman.wire import stream as wire_stream
from pointsman.wire.address import nearest, node_here
from pointsman.wire.auth import ROLE_ROUTER
from pointsman.wire.frames import Body, Frame, Kind
from pointsman.wire.messages import AppReplyHead, CreditHead, FailureHead, FreeHead, RefuseHead, pack, unpack
from pointsman.wire.started import StartedReader, path_of
from pointsman.wire.stream import Stream

log = logging.getLogger(__name__)

REDIAL_FIRST_S = 0.02
REDIAL_LAST_S = 1.0
CONNECT_S = 1.0
"""How long a replica that is new may take to be reached before nobody waits for that any more."""


class RemoteOwner(Protocol):
    """The pool: called when a call has ended, and when there may be free capacity.

    ``calls_orphaned`` has the ids of those calls that had started; None if that is unknown.
    """

    def call_replied(self, call: Call, reply: Reply) -> None: ...

    def call_failed(self, call: Call, failure: FailureHead, pickled: Body) -> None: ...

    def call_refused(self, call: Call, refusal: RefuseHead, remote: RemoteReplica) -> None: ...

    def calls_orphaned(self, calls: list[Call], started: frozenset[int] | None) -> None: ...

    def place_waiting(self) -> None: ...

    def replica_free(self, *, idle: bool) -> None: ...


class RemoteReplica(Holding):
    """The connection to a replica. Reconnects when it is lost, until :meth:`retire`.

    Attributes:
        near: whether the replica is on this process's node.
        retired: no new calls are sent.
        sockets: WebSockets on it, which do not count among the calls.
        tried: done once it was reached, or nobody waits for that any more.
        counts: where the end of each call is counted; None where nobody asks.
    """

    def __init__(self, ref: ReplicaRef, owner: RemoteOwner, *, instance: str) -> None:
        super().__init__()
        self.ref = ref
        self.near = ref.node == node_here()
        self.retired = False
        self._owner = owner
        self._instance = instance
        self._stream: Stream | None = None
        self._calls: dict[int, Call] = {}
        self._streams: dict[int, ReplyStream] = {}
        self._ups: dict[int, Upward] = {}  # of calls whose data goes on behind them, until their end
        self._sockets: set[int] = set()  # among the calls and streams
        self._next_id = 0
        self._connection = 0
        self._started: StartedReader | None = None
        self._closed_to_calls = False
        self._dialing: asyncio.Task[None] | None = None
        self.counts: Counts | None = None
        self.tried: asyncio.Future[None] = self._loop.create_future()
        self._patience = self._loop.call_later(CONNECT_S, self._has_tried)

    @property
    def version(self) -> int:
        """Of the backend's code that it runs."""
        return self.ref.version

    def present(self) -> Iterator[Sent]:
        """Calls and streams on it, WebSockets too."""
        yield from self._calls.values()
        yield from self._streams.values()

    @property
    def held(self) -> int:
        return len(self._calls)

    @property
    def inflight(self) -> int:
        return len(self._calls) + len(self._streams) - len(self._sockets)

    @property
    def under_way(self) -> int:
        """Calls, streams and WebSockets on it, whatever they wait for."""
        return len(self._calls) + len(self._streams)

    @property
    def sockets(self) -> int:
        return len(self._sockets)

    @property
    def open(self) -> bool:
        stream = self._stream
        return (
            stream is not None and stream.ready and not stream.closed and stream.writable and not self._closed_to_calls
        )

    @property
    def silent_since(self) -> float | None:
        if self._recalling or not self.may_hold or self._run_us < 0:
            return None
        first = next(iter(self._calls.values()), None)
        return None if first is None else max(first.sent_at, self._moved_at)

    def recall(self) -> None:
        """Have it send back what it has not begun. It gets nothing more before it is free again."""
        if self._stream is not None and self._stream.ready and not self._stream.closed:
            self._recalling, self.asked_at = True, self._loop.time()
            self._reckon()
            self._stream.send(Kind.RECALL, 0)

    def _has_tried(self) -> None:
        self._patience.cancel()
        if not self.tried.done():
            self.tried.set_result(None)

    def start(self) -> None:
        """Begin to connect, unless it does so already or is retired."""
        if self._dialing is None and not self.retired:
            self._dialing = self._loop.create_task(self._dial())

    def retire(self) -> None:
        """Send no new calls, and close the connection after the last call on it."""
        self.retired = self._closed_to_calls = True
        self._has_tried()
        self._close_if_idle()

    def refuses_calls(self, reason: Reason) -> None:
        """It has refused one: send no others for a while, or for good, by the reason."""
        pause_s = PAUSES_S.get(reason)
        self._closed_to_calls = True
        if pause_s is not None and not self.retired:
            self._loop.call_later(pause_s, self._accept_calls)

    def _accept_calls(self) -> None:
        if not self.retired:
            self._closed_to_calls = False
            self._owner.place_waiting()

    async def aclose(self) -> None:
        """Close now; calls still on the connection are orphaned."""
        self.retire()
        for call in self._calls.values():
            call.tally = None  # that it is cut off says nothing about the backend
        for reply_stream in self._streams.values():
            reply_stream.tally = None
        if self._dialing is not None:
            self._dialing.cancel()
            await asyncio.gather(self._dialing, return_exceptions=True)
        if self._stream is not None:
            self._stream.abort()
            await wire_stream.close_streams([self._stream])

    def send(self, call: Call) -> None:
        """Send a call. The caller has checked ``open``. A call that cannot be encoded fails."""
        assert self._stream is not None
        self._next_id += 1
        # hot: with no other call in flight this one is written at once instead of at the end of the loop's iteration,
        # which is a tenth of the latency (see `Stream.send`).
        alone = not self._calls
        try:
            head = pack(call.head(self._loop.time()))
            self._stream.send(Kind.CALL, self._next_id, head, call.body, alone=alone)
        except (ValueError, OverflowError) as error:  # too large, or not encodable, such as lone surrogates
            kind = TooLargeError if isinstance(error, TooLargeError) else CallRejectedError
            call.fail(kind(f"the call to endpoint {call.request.endpoint!r} cannot be sent: {error}"))
            return
        call.remote, call.call_id = self, self._next_id
        call.attempts += 1
        self._calls[call.call_id] = call
        if call.up is not None:
            self._begin_up(call, call.up)

    def _begin_up(self, call: Call, up: Upward) -> None:
        stream, call_id = self._stream, call.call_id
        assert stream is not None
        self._ups[call_id] = up
        if call.is_socket:
            self._sockets.add(call_id)
        up.begin(lambda kind, head, data: stream.send(kind, call_id, head, data))

    def _end_up(self, call_id: int, *, again: bool = False) -> None:
        """A call is over here; ``again``: it may go elsewhere with what was sent."""
        self._sockets.discard(call_id)
        up = self._ups.pop(call_id, None)
        if up is not None:
            up.stop()
            if not again:
                up.over()

    def send_again(self, call: Call) -> bool:
        """Send a call that it has just sent back, though it is retired. False if the connection is gone."""
        if self._stream is None or self._stream.closed:
            return False
        self.send(call)
        return True

    def cancel(self, call: Call) -> None:
        """Have the replica cancel a call, and forget it here."""
        if self._calls.pop(call.call_id, None) is not None and self._stream is not None:
            if self.counts is not None:
                self.counts.leave(call.sent_at)
            self._end_up(call.call_id)
            self._stream.send(Kind.CANCEL, call.call_id)
            self._close_if_idle()

    def grant_credit(self, call_id: int, amount: int) -> None:
        if call_id in self._streams and self._stream is not None:
            self._stream.send(Kind.CREDIT, call_id, pack(CreditHead(amount)))

    def drop_stream(self, call_id: int) -> None:
        reply_stream = self._streams.pop(call_id, None)
        if reply_stream is not None and self._stream is not None:
            self._count_end(reply_stream)
            self._end_up(call_id)
            self._stream.send(Kind.CANCEL, call_id)
            self._owner.place_waiting()
            self._close_if_idle()

    async def _dial(self) -> None:
        pause = REDIAL_FIRST_S
        while not self.retired and (self._stream is None or self._stream.closed):
            self._connection = secrets.randbits(63)
            try:
                self._stream = await wire_stream.dial(
                    nearest(self.ref.node, self.ref.address, self.ref.tcp),
                    self,
                    instance=self._instance,
                    role=ROLE_ROUTER,
                    identity=str(self._connection),
                    key=self.ref.key,
                )
            except (OSError, asyncio.TimeoutError) as error:
                log.debug("replica %s does not answer at its socket yet: %s", self.ref.tag, error)
                await asyncio.sleep(pause)
                pause = min(REDIAL_LAST_S, pause * 2)
        self._dialing = None

    def _close_if_idle(self) -> None:
        if self.retired and not (self._calls or self._streams) and self._stream is not None:
            self._stream.close()

    # StreamUser

    def stream_ready(self, stream: Stream) -> None:
        self._stream = stream
        self._has_tried()
        self._started = StartedReader(path_of(self.ref.address))
        stream.on_writable = self._owner.place_waiting
        self._owner.place_waiting()

    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None:
        for frame in frames:
            self._receive(frame)
        self._owner.place_waiting()
        if self.retired:
            self._close_if_idle()

    def stream_lost(self, stream: Stream, error: Exception | None) -> None:
        orphans = list(self._calls.values())
        streams = list(self._streams.values())
        if self.counts is not None:
            for sent in self.present():
                self.counts.leave(sent.sent_at)
        self._calls.clear()
        self._streams.clear()
        waiting = {call.call_id for call in orphans}
        for call_id in list(self._ups):
            self._end_up(call_id, again=call_id in waiting)
        self._recalling = False
        self._reckon()
        for reply_stream in streams:
            reply_stream.finish(StreamBroken(f"replica {self.ref.tag} went away while it streamed"))
        started = None
        if self._started is not None:
            started = self._started.calls(self._connection) if orphans else None
            self._started.close()
            self._started = None
        self._owner.calls_orphaned(orphans, started)
        self._loop.call_later(REDIAL_FIRST_S, self.start)

    def _receive(self, frame: Frame) -> None:
        kind = frame.kind
        if kind == Kind.REPLY:
            head = unpack(frame.head, AppReplyHead)
            call = self._calls.pop(frame.call_id, None)
            self._set_load(head.load)
            if call is not None:
                self._replied(call, head, frame)
        elif kind == Kind.CHUNK:
            if frame.call_id in self._streams:
                self._streams[frame.call_id].feed(frame.body, frame.head)
        elif kind == Kind.END:
            self._moved_at = self._loop.time()
            if frame.call_id in self._streams:
                reply_stream = self._streams.pop(frame.call_id)
                self._count_end(reply_stream)
                reply_stream.finish(head=frame.head)
                self._end_up(frame.call_id)
        elif kind == Kind.FAILURE:
            self._failed(unpack(frame.head, FailureHead), frame)
        elif kind == Kind.REFUSE:
            refusal = unpack(frame.head, RefuseHead)
            call = self._calls.pop(frame.call_id, None)
            self._end_up(frame.call_id, again=True)
            self._set_load(refusal.load)
            if call is not None:
                if self.counts is not None:
                    self.counts.leave(call.sent_at)
                self._owner.call_refused(call, refusal, self)
        elif kind == Kind.CREDIT:
            if frame.call_id in self._ups:
                self._ups[frame.call_id].grant(unpack(frame.head, CreditHead).chunks)
        elif kind == Kind.FREE:
            free = unpack(frame.head, FreeHead)
            self._set_load(free.load)
            self._moved_on(free.run_us)
            self._owner.replica_free(idle=free.idle)

    def _replied(self, call: Call, head: AppReplyHead, frame: Frame) -> None:
        if call.timed:
            call.waited_us, call.ran_us = head.waited_us, head.ran_us
        if not head.stream:
            if self._ups:
                self._end_up(call.call_id)
            if self.counts is not None:
                # hot: `_busy_until`, without a call
                self.counts.end(call.sent_at, self._moved_at if self._limit is not None else 0.0)
            self._moved_on(head.run_us)
            self._owner.call_replied(call, Reply(head.status, head.headers, frame.body))
            return
        make = ByteStream if head.by_bytes else ReplyStream
        reply_stream = self._streams[call.call_id] = make(self, call.call_id)
        reply_stream.sent_at, reply_stream.began = call.sent_at, self._busy_until
        self._moved_at = self._loop.time()
        self._owner.call_replied(call, Reply(head.status, head.headers, b"", reply_stream))

    def _failed(self, failure: FailureHead, frame: Frame) -> None:
        self._end_up(frame.call_id)
        self._set_load(failure.load)
        reply_stream = self._streams.pop(frame.call_id, None)
        if reply_stream is not None:
            self._count_end(reply_stream)
            self._moved_at = self._loop.time()
            reply_stream.finish(StreamBroken(failure.text, failure, frame.body))
            return
        call = self._calls.pop(frame.call_id, None)
        if call is not None:
            if self.counts is not None:
                self.counts.end(call.sent_at, self._busy_until)
            if failure.run_us:  # otherwise it was rejected, and has never been where others wait
                self._moved_on(failure.run_us)
            self._owner.call_failed(call, failure, frame.body)

    def _count_end(self, ended: ReplyStream) -> None:
        if self.counts is not None:
            self.counts.end(ended.sent_at, ended.began)

    def _set_load(self, load: int) -> None:
        self.elsewhere = max(0, load - self.inflight)
