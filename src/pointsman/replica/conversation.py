"""What an ASGI app says and hears of one request: its body, its answer, and whether its client is still there.

The head of an answer is held until the app gives the loop back: most apps send head and body at once, and then the
answer is one frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pointsman.exceptions import AnswerError
from pointsman.replica.answers import Answer, Headers, app_head, check_status
from pointsman.replica.flow import AppItem
from pointsman.replica.ledger import Ledger
from pointsman.wire.frames import Kind
from pointsman.wire.messages import WINDOW, AppReplyHead, pack

BODILESS = (204, 304)


class AppAnswer:
    """The answer of an app, made of the messages ``start`` and ``body``.

    Args:
        item: the call. What is sent after its caller has gone is dropped, as by uvicorn.
        ended: called when it ends, before that leaves.
        kind: what the messages' types begin with: ``http.response``, or ``websocket.http.response``.

    Attributes:
        started, complete: whether it has begun, and whether it has ended.
    """

    __slots__ = (
        "_body_kind", "_ended", "_headers", "_item", "_ledger", "_length", "_opening", "_sent", "_start_kind",
        "_status", "complete", "started",
    )  # fmt: skip

    def __init__(self, item: AppItem, ledger: Ledger, ended: Callable[[], object], kind: str = "http.response") -> None:
        self._item = item
        self._ended = ended
        self._ledger = ledger
        self._start_kind, self._body_kind = f"{kind}.start", f"{kind}.body"
        self._status = 0
        self._headers: Headers = []
        self._length: int | None = None
        self._sent = 0
        self._opening: asyncio.Handle | None = None
        self.started = self.complete = False

    async def send(self, message: Any) -> None:
        kind = message["type"]
        if self.complete:
            raise RuntimeError(f"the app sent {kind!r} behind the end of its answer")
        if self._item.over:  # the client has gone, of which the app may not have heard
            return
        wanted = self._body_kind if self.started else self._start_kind
        if kind != wanted:
            raise RuntimeError(f"the app sent {kind!r} where {wanted!r} comes next")
        if not self.started:
            self._start(message["status"], message.get("headers", ()))
            return
        more = bool(message.get("more_body", False))
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = bytes(memoryview(body))  # a number would be as many bytes
        data = self._checked(body, more=more)
        item = self._item
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
            if not more and len(data) <= WINDOW and not item.wants_no_body():
                self._end()
                self._ledger.reply(item, Answer(self._status, self._headers, data))
                return
            self._open()
        item.enter_stream()  # here, since it is the app's own context that loses its deadline
        if data:
            await item.outlet.send(data)
        if not more:
            self._end()
            self._ledger.end_stream(item)

    def check_complete(self) -> None:
        """Check the answer when the app has returned.

        Raises:
            AnswerError: it is not whole.
        """
        if not self.complete and not self._item.over:
            raise AnswerError("the app returned without sending a whole answer by 'await send(...)'")

    def drop_head(self) -> None:
        """The app has failed before its answer could be seen."""
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None

    def _start(self, status: int, headers: Any) -> None:
        self._status = check_status(int(status))
        self._headers, length = app_head(headers)
        self._length = None if self._status in BODILESS else length
        self.started = True
        self._opening = asyncio.get_running_loop().call_soon(self._open)

    def _checked(self, data: bytes, *, more: bool) -> bytes:
        """What of a part of the body is sent. Raises RuntimeError if it has another length than was said."""
        if self._status in BODILESS or self._item.wants_no_body():
            return b""
        self._sent += len(data)
        if self._length is not None and (self._sent > self._length or (not more and self._sent < self._length)):
            raise RuntimeError(f"the answer has not the {self._length} bytes that its content-length says")
        return data

    def _open(self) -> None:
        self._opening = None
        item = self._item
        if item.over:
            return
        item.opened = True
        headers = self._headers
        if self._length is not None:
            headers = [*headers, (b"content-length", b"%d" % self._length)]
        head = AppReplyHead(self._status, headers, self._ledger.load, True, *item.timing(), 0, True)
        item.stream.send(Kind.REPLY, item.call_id, pack(head))

    def _end(self) -> None:
        self.complete = True
        self._item.gone.set()
        self._ended()


class Conversation:
    """The ``receive`` and ``send`` of an HTTP request."""

    __slots__ = ("_item", "_whole", "answer", "send")

    def __init__(self, item: AppItem, ledger: Ledger, ended: Callable[[], object]) -> None:
        self._item = item
        self._whole = False
        self.answer = AppAnswer(item, ledger, ended)
        self.send = self.answer.send

    async def receive(self) -> dict[str, Any]:
        item = self._item
        if not item.gone.is_set and not self._whole:
            data, more = await item.inbox.all()
            if not item.gone.is_set:
                self._whole = not more
                return {"type": "http.request", "body": data, "more_body": more}
        await item.gone.wait()
        return {"type": "http.disconnect"}
