"""What comes back for a call: an answer, whole or as a stream."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

import msgspec

from pointsman.telemetry.values import TallyValues
from pointsman.wire.frames import Body
from pointsman.wire.messages import WINDOW, FailureHead


class StreamSource(Protocol):
    """The replica that a stream comes from, as far as the stream needs it: :class:`routing.remote.RemoteReplica`."""

    def grant_credit(self, call_id: int, amount: int) -> None: ...

    def drop_stream(self, call_id: int) -> None: ...


class StreamWatcher(Protocol):
    """Sees what comes of a stream, beside its reader."""

    def chunk(self, chunk: Body) -> None: ...

    def ended(self, error: Exception | None) -> None: ...

    def closed(self) -> None:
        """Its reader has stopped before the end."""


class Reply(msgspec.Struct, frozen=True):
    """An answer: HTTP status, headers and bytes; or a pickled object; or a stream of either."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: Body
    stream: ReplyStream | None = None


class StreamBroken(Exception):
    """A streamed answer broke off. ``failure`` and ``pickled`` describe the exception if user code raised one."""

    def __init__(self, text: str, failure: FailureHead | None = None, pickled: Body = b"") -> None:
        super().__init__(text)
        self.failure = failure
        self.pickled = pickled


class ReplyStream:
    """Async iterator over the chunks of a streamed answer, for one reader. Credit bounds the chunks in memory.

    A reader that stops early calls :meth:`close`, which cancels the producer.

    Attributes:
        watcher: sees each chunk as it comes; None for nobody.
        tally: where its end is counted; None if nowhere, or by the reader.
        sent_at, began: of its call: when it was sent, and when the replica may have begun it.
    """

    CREDIT_STEP = 8
    """Credit is granted to the producer each time the reader has taken this many chunks."""

    def __init__(self, remote: StreamSource, call_id: int) -> None:
        self._remote = remote
        self._call_id = call_id
        self._chunks: deque[Body] = deque()
        self._taken = 0
        self._end: Exception | None = None
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None
        self.watcher: StreamWatcher | None = None
        self.tally: TallyValues | None = None
        self.sent_at = self.began = 0.0

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
        """Stop reading, and have the replica cancel the producer. A reader that waits gets the end of the stream."""
        if not self._ended:
            self._ended = True
            self._chunks.clear()
            self._remote.drop_stream(self._call_id)
            self._wake()
            if self.watcher is not None:
                self.watcher.closed()

    def break_off(self, error: Exception) -> None:
        """End it with an error for its reader, and have the replica cancel the producer."""
        self.finish(error)
        self._remote.drop_stream(self._call_id)

    def feed(self, chunk: Body, head: bytes = b"") -> None:
        if not self._ended:
            self._chunks.append(chunk)
            self._wake()
            if self.watcher is not None:
                self.watcher.chunk(chunk)

    def finish(self, error: Exception | None = None, head: bytes = b"") -> None:
        if not self._ended:
            self._ended = True
            self._end = error
            if self.tally is not None:
                self.tally.ended(error is not None)
            self._wake()
            if self.watcher is not None:
                self.watcher.ended(error)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


JOINED = 64 * 1024
"""Bytes of one piece of an answer, if small parts of it have come together: each piece is a write to the client."""


class ByteStream(ReplyStream):
    """The streamed answer of an app, or the messages of a WebSocket. Credit is in bytes.

    Iterated over, it gives pieces, of one part or of several that were there.

    Attributes:
        end_head: the head of the END.
    """

    CREDIT_STEP = WINDOW // 4

    def __init__(self, remote: StreamSource, call_id: int) -> None:
        super().__init__(remote, call_id)
        self._heads: deque[bytes] = deque()
        self.end_head = b""

    async def __anext__(self) -> Body:
        _, piece = await self.part()
        if not self._chunks or len(piece) >= JOINED:
            return piece
        parts, size = [piece], len(piece)
        while self._chunks and size < JOINED:
            _, part = self._next()
            parts.append(part)
            size += len(part)
        return b"".join(parts)

    async def part(self) -> tuple[bytes, Body]:
        """The next part with its head.

        Raises:
            StopAsyncIteration: there is none.
            StreamBroken: it broke off.
        """
        while not self._chunks:
            if self._end is not None:
                raise self._end
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._next()

    def _next(self) -> tuple[bytes, Body]:
        head, chunk = self._heads.popleft(), self._chunks.popleft()
        self._taken += len(chunk)
        if self._taken >= self.CREDIT_STEP:
            self._remote.grant_credit(self._call_id, self._taken)
            self._taken = 0
        return head, chunk

    def feed(self, chunk: Body, head: bytes = b"") -> None:
        if not self._ended:
            self._heads.append(head)
            super().feed(chunk, head)

    def finish(self, error: Exception | None = None, head: bytes = b"") -> None:
        if not self._ended:
            self.end_head = head
        super().finish(error, head)
