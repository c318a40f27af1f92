"""What an ASGI app says and hears of one WebSocket. Frames of WebSockets are the ingress's; here are messages only."""

from __future__ import annotations

from typing import Any

from pointsman.replica.answers import Answer, Headers, check_headers
from pointsman.replica.conversation import AppAnswer
from pointsman.replica.flow import AppItem
from pointsman.replica.ledger import Ledger
from pointsman.wire.frames import Body, Kind
from pointsman.wire.messages import BINARY, MORE, TEXT, AppReplyHead, EndHead, pack, unpack

NORMAL, ABNORMAL, BROKEN, RESTARTS = 1000, 1006, 1011, 1012
SWITCHES = 101
DENIAL = "websocket.http.response"
PROTOCOL = b"sec-websocket-protocol"


class ClientGone(OSError):
    """Raised where an app sends to a client that is gone; frameworks know an OSError for that."""


class Socket:
    """The ``receive`` and ``send`` of a WebSocket.

    Args:
        item: the call that opens it.

    Attributes:
        accepted, closed: by the app, or for it.
        left: whether it was not the app that closed it.
    """

    def __init__(self, item: AppItem, ledger: Ledger) -> None:
        self._item = item
        self._ledger = ledger
        self._denial: AppAnswer | None = None
        self._connecting = True
        self._told: dict[str, Any] | None = None
        self.accepted = self.closed = self.left = False
        self._end = EndHead(ABNORMAL)

    async def receive(self) -> dict[str, Any]:
        if self._connecting:
            self._connecting = False
            return {"type": "websocket.connect"}
        if self._told is None:
            message = await self._message()
            if message is not None:
                return message
            self._told = self._disconnect()
        return self._told

    async def send(self, message: Any) -> None:
        kind, item = message["type"], self._item
        if self.closed:
            if self.left:
                raise ClientGone("the client has closed the WebSocket, or is gone")
            raise RuntimeError(f"the app sent {kind!r} behind the close of its WebSocket")
        if self.accepted:
            if kind == "websocket.send":
                text, data = message.get("text"), message.get("bytes")
                # by a view: `bytes` of a number would be as many zeros
                payload, flag = (bytes(memoryview(data)), BINARY) if text is None else (text.encode(), TEXT)
                await item.outlet.send(payload, flag)
            elif kind == "websocket.close":
                self.close(_code(message.get("code")), str(message.get("reason") or ""))
            else:
                raise RuntimeError(f"the app sent {kind!r} to a WebSocket that it has accepted")
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self.closed = True
            self._ledger.reply(item, Answer(403, [], b""))
        elif kind.startswith(DENIAL):
            self._denial = self._denial or AppAnswer(item, self._ledger, _nothing, DENIAL)
            await self._denial.send(message)
            self.closed = self._denial.complete
        else:
            raise RuntimeError(f"the app sent {kind!r} to a WebSocket that it has not accepted")

    def close(self, code: int, reason: str = "") -> None:
        """End an accepted socket, and tell its client."""
        if self.closed:
            return
        head = pack(EndHead(code, reason))  # first: a reason that cannot be sent must not leave the client waiting
        self.closed = True
        item = self._item
        if not item.over:
            item.stream.send(Kind.END, item.call_id, head)
        self._ledger.close(item)
        item.gone.set()

    def lost(self, code: int = ABNORMAL, reason: str = "") -> None:
        """The client has gone, or is told to go: the app hears of it behind what it has not read."""
        if not self.closed:
            self.left = True
            self._end = EndHead(code, reason)
            if self.accepted:
                self.close(code, reason)
            self.closed = True
        self._item.leave()

    def returned(self) -> None:
        """The app has returned: what it has not closed is closed for it."""
        if self.accepted:
            self.close(NORMAL)
        elif self._denial is not None:
            self._denial.check_complete()
        elif not self.closed:
            self.closed = True
            self._ledger.reply(self._item, Answer(403, [], b""))

    async def _message(self) -> dict[str, Any] | None:
        parts: list[Body] = []
        while True:
            part = await self._item.inbox.part()
            if part is None:
                return None
            head, data = part
            parts.append(data)
            if not head[0] & MORE:
                break
        whole = bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
        if head[0] & TEXT:
            return {"type": "websocket.receive", "text": whole.decode("utf-8", "replace")}
        return {"type": "websocket.receive", "bytes": whole}

    def _disconnect(self) -> dict[str, Any]:
        """What the app hears last."""
        if self._item.inbox.ended and not self.left:
            self._end = unpack(self._item.inbox.ended, EndHead)
            self.lost(self._end.code, self._end.reason)
        return {"type": "websocket.disconnect", "code": self._end.code, "reason": self._end.reason}

    def _accept(self, message: Any) -> None:
        headers: Headers = check_headers([(bytes(name), bytes(value)) for name, value in message.get("headers", ())])
        subprotocol = message.get("subprotocol")
        if subprotocol is not None:
            headers.append((PROTOCOL, subprotocol.encode()))
        item = self._item
        self.accepted = True
        if not item.over:
            item.enter_stream()
            head = AppReplyHead(SWITCHES, headers, self._ledger.load, True, *item.timing(), 0, True)
            item.stream.send(Kind.REPLY, item.call_id, pack(head))


def _code(given: Any) -> int:
    """The code of an app's close; what no close can have is that of a usual one."""
    code = NORMAL if given is None else int(given)
    return code if 0 < code < 5000 else NORMAL


def _nothing() -> None:
    pass
