"""Data that goes both ways behind a call of an app: what comes in is read as the app asks for it, what goes out waits
for credit of whoever reads it."""

from __future__ import annotations

import asyncio
from collections import deque

from pointsman.context import CallScope, call_scope
from pointsman.replica.item import Item
from pointsman.replica.methods import Method
from pointsman.wire.frames import Body, Kind
from pointsman.wire.messages import MORE, PART, WHOLE, WINDOW, AppPart, CallHead, CreditHead, pack
from pointsman.wire.stream import Stream

CREDIT_STEP = WINDOW // 4
"""Bytes that an app has read, and nobody was told of, at most: credit is given in such steps, and when nothing is
left to read."""
STALL_S = 60.0
"""How long a reader of what an app sends may take for a step of credit, with a window unread."""


class Flag:
    """What has happened, or not yet. Most requests are over before anybody waits for it, so the event is made late.

    Attributes:
        is_set: whether it has.
    """

    __slots__ = ("_event", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._event: asyncio.Event | None = None

    def set(self) -> None:
        self.is_set = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        """Return once it has happened. Several may wait."""
        if not self.is_set:
            self._event = self._event or asyncio.Event()
            await self._event.wait()


class Inbox:
    """What has come behind a call, and was not read.

    Args:
        item: the call.
        whole: all of the data, where it came with the call; None where it comes behind it. Then credit is given.

    Attributes:
        ended: the head of the END; None while more may come.
        unread: bytes.
    """

    def __init__(self, item: Item, whole: Body | None) -> None:
        self._item = item
        self._follows = whole is None
        self._parts: deque[tuple[bytes, Body]] = deque()
        self._taken = 0
        self._news: asyncio.Event | None = None  # several may wait: frameworks listen for the end while an app reads
        self.ended: bytes | None = None
        self.unread = 0
        if whole is not None:
            self._parts.append((b"", whole))
            self.unread, self.ended = len(whole), b""

    def feed(self, head: bytes, data: Body) -> None:
        """A part has come."""
        if self.ended is None:
            self._parts.append((head, data))
            self.unread += len(data)
            if self._news is not None:
                self._news.set()

    def end(self, head: bytes = b"") -> None:
        """No more comes. What has come can still be read."""
        if self.ended is None:
            self.ended = head
            if self._news is not None:
                self._news.set()

    async def part(self) -> tuple[bytes, Body] | None:
        """The next part with its head; None once there is none any more."""
        await self._something()
        if not self._parts:
            return None
        head, data = self._parts.popleft()
        self._read(len(data))
        return head, data

    async def all(self) -> tuple[bytes, bool]:
        """All that is there, and whether more may come; waits for a first part."""
        await self._something()
        parts = [data for _, data in self._parts]
        self._parts.clear()
        data = bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
        self._read(len(data))
        return data, self.ended is None

    async def _something(self) -> None:
        while not self._parts and self.ended is None:
            self._news = self._news or asyncio.Event()
            self._news.clear()
            await self._news.wait()

    def _read(self, size: int) -> None:
        self.unread -= size
        self._taken += size
        if self._follows and (self._taken >= CREDIT_STEP or not self.unread) and self._taken and self.ended is None:
            self._item.stream.send(Kind.CREDIT, self._item.call_id, pack(CreditHead(self._taken)))
            self._taken = 0


class Outlet:
    """Sends parts of an answer, or of a WebSocket's messages.

    Args:
        item: the call. Nothing is sent once it is over.
    """

    def __init__(self, item: Item) -> None:
        self._item = item
        self._credit = WINDOW
        self._turn: asyncio.Lock | None = None  # tasks may send at once, and parts of two messages must not be mixed
        self._in_turn = 0  # that have the turn, or wait for it
        self._waiter: asyncio.Future[None] | None = None

    async def send(self, data: bytes, flags: int = 0) -> None:
        """Send data, cut in parts; waits while a window is unread.

        Args:
            flags: of a message's kind; 0 where borders have no meaning.

        Raises:
            TimeoutError: nobody reads it. The slot is another caller's, who does.
        """
        item = self._item
        if len(data) <= self._credit and len(data) <= PART and not self._in_turn:  # hot: the usual case, in one part
            if not item.over:
                self._credit -= len(data)
                item.stream.send(Kind.CHUNK, item.call_id, bytes([flags]) if flags else b"", data)
            return
        self._turn = self._turn or asyncio.Lock()
        self._in_turn += 1
        try:
            async with self._turn:
                await self._send(data, flags)
        finally:
            self._in_turn -= 1

    async def _send(self, data: bytes, flags: int) -> None:
        item, at, size = self._item, 0, len(data)
        while not item.over:
            fits = min(PART, self._credit)
            part = data if not at and size <= fits else data[at : at + fits]
            if part or not size:
                at += len(part)
                self._credit -= len(part)
                head = bytes([flags | (MORE if at < size else 0)]) if flags else b""
                item.stream.send(Kind.CHUNK, item.call_id, head, part)
                if at == size:
                    return
            else:
                await self._credit_or_end()

    async def _credit_or_end(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait_for(self._waiter, STALL_S)
        except asyncio.TimeoutError:
            raise TimeoutError(f"the client has taken next to nothing for {STALL_S:g} s") from None

    def grant(self, size: int) -> None:
        self._credit += size
        self.wake()

    def wake(self) -> None:
        """Look again: there is credit, or the call is over."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class AppItem(Item):
    """A call of an app inside the replica.

    Attributes:
        app: what is said for the app beside the request.
        inbox, outlet: what comes, and what goes.
        gone: set once its caller does not wait any more, or the answer is complete.
    """

    __slots__ = ("_open_scope", "app", "gone", "inbox", "outlet")

    def __init__(self, stream: Stream, call_id: int, head: CallHead, body: Body, app: AppPart, method: Method) -> None:
        super().__init__(stream, call_id, head, body, method)
        self.app = app
        self.inbox = Inbox(self, body if app.follows == WHOLE else None)
        self.outlet = Outlet(self)
        self.gone = Flag()
        self._open_scope: CallScope | None = None

    def enter_stream(self, *, opened: bool = True) -> None:
        self.opened = opened
        self._open_scope = self._open_scope or self.scope().without_deadline()  # hot: once, and not for each chunk
        call_scope.set(self._open_scope)

    def grant(self, chunks: int) -> None:
        self.outlet.grant(chunks)

    def leave(self) -> None:
        """The caller has gone."""
        self.gone.set()
        self.inbox.end()
        self.outlet.wake()
