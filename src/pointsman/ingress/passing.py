"""Requests and WebSockets of apps: what comes from a client is passed on as it comes, and what an app sends goes back.

receive ──► parts, while less than a window of them is unread ──► the call's replica
send    ◄── parts, whose reader gives credit                  ◄──
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from pointsman.ingress.asgi import Receive, Send
from pointsman.ingress.bodylimits import BodyDeadlines, BodyIsLateError
from pointsman.ingress.codec import ErrorAnswer, Headers, RequestRejected
from pointsman.model import EndpointSpec, Reason
from pointsman.routing.call import Call
from pointsman.routing.reply import ByteStream, Reply, ReplyStream, StreamBroken
from pointsman.routing.upward import Upward
from pointsman.wire.frames import Body
from pointsman.wire.handover import HTTPSettings
from pointsman.wire.messages import BINARY, MORE, TEXT, EndHead, pack, unpack

CLOSE: Headers = [(b"connection", b"close")]
"""Header of an answer that is sent before the body has ended: otherwise the server would read and drop the rest."""
SWITCHES = 101
PROTOCOL = b"sec-websocket-protocol"
BROKEN = 1011
NO_CODE = 1005
LINGER_S = 30.0
"""How long an app may go on with a WebSocket whose client has gone."""


def largest_body(endpoint: EndpointSpec, settings: HTTPSettings) -> float:
    """Most bytes of the body of a request."""
    return settings.max_body_bytes if endpoint.max_body_bytes is None else endpoint.max_body_bytes


def too_large(limit: float) -> RequestRejected:
    return RequestRejected(ErrorAnswer(413, Reason.REJECTED, f"the body is over {limit:.0f} bytes", CLOSE))


def too_late() -> RequestRejected:
    return RequestRejected(ErrorAnswer(408, Reason.DEADLINE, "the body did not come in time", CLOSE))


class ClientLeft(Exception):
    """The client has disconnected before all of its body has arrived."""


async def read_body(receive: Receive, settings: HTTPSettings, limit: float) -> bytes:
    """The body of a request.

    Raises:
        RequestRejected: it is too large, or comes too slowly.
        ClientLeft: it will not come.
    """
    chunks: list[bytes] = []
    size = 0
    try:
        with BodyDeadlines(settings.body_idle_timeout_s, settings.body_min_bytes_per_s) as deadlines:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > limit:
                    raise too_large(limit)
                deadlines.received(len(chunk))
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except BodyIsLateError:
        raise too_late() from None


async def pass_body(up: Upward, receive: Receive, settings: HTTPSettings, limit: float) -> None:
    """Pass the body of a request on, until it has ended, its client has left, or nobody reads it any more.

    Raises:
        RequestRejected: as :func:`read_body`.
    """
    try:
        with BodyDeadlines(settings.body_idle_timeout_s, settings.body_min_bytes_per_s) as deadlines:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                chunk = message.get("body", b"")
                if up.size + len(chunk) > limit:
                    raise too_large(limit)
                deadlines.received(len(chunk))
                if chunk:
                    up.push(chunk)
                if not message.get("more_body", False):
                    up.end()
                    return
                with deadlines.held():  # the app's time, not the client's
                    if not await up.room():
                        return
    except BodyIsLateError:
        raise too_late() from None


class BodyPump:
    """Passes a body on while the answer is awaited, and while it is sent.

    Args:
        call: whose body it is.
        limit: most bytes of it.
        cancel: gives the call up.
    """

    def __init__(
        self, call: Call, receive: Receive, settings: HTTPSettings, limit: float, cancel: Callable[[Call], None]
    ) -> None:
        assert call.up is not None
        self._call = call
        self._up = call.up
        self._cancel = cancel
        self._answer: ReplyStream | None = None
        self._task = asyncio.get_running_loop().create_task(self._run(receive, settings, limit))

    def answer_begins(self, reply: Reply) -> None:
        """What is wrong with the body from now on cuts the answer."""
        self._answer = reply.stream

    def end(self) -> None:
        """The request is over."""
        self._task.cancel()
        self._up.over()

    async def _run(self, receive: Receive, settings: HTTPSettings, limit: float) -> None:
        try:
            await pass_body(self._up, receive, settings, limit)
        except RequestRejected as rejected:
            if self._answer is not None:
                self._answer.break_off(StreamBroken(rejected.answer.text))
            else:
                self._call.fail(rejected)
                self._cancel(self._call)


async def pass_socket(up: Upward, reply: Reply, receive: Receive, send: Send, extra: Headers) -> None:
    """Accept a WebSocket, and pass its messages on until one side has closed it.

    Args:
        reply: by which its app has accepted it.
        extra: headers of ours.
    """
    stream = reply.stream
    assert isinstance(stream, ByteStream)
    chosen = [value.decode("latin-1") for name, value in reply.headers if name == PROTOCOL]
    headers = [*(header for header in reply.headers if header[0] != PROTOCOL), *extra]
    reading = asyncio.get_running_loop().create_task(_pass_messages(up, stream, receive))
    try:
        subprotocol = chosen[0] if chosen else None
        await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})
        try:
            while True:
                await send(await _next_message(stream))
        except StopAsyncIteration:
            end = unpack(stream.end_head, EndHead) if stream.end_head else EndHead(NO_CODE)
            code, reason = end.code, end.reason
        except StreamBroken:
            code, reason = BROKEN, "the replica died"
        await send({"type": "websocket.close", "code": code, "reason": reason})
    finally:
        reading.cancel()
        stream.close()


async def _next_message(stream: ByteStream) -> dict[str, Any]:
    parts: list[Body] = []
    while True:
        head, data = await stream.part()
        parts.append(data)
        if not head[0] & MORE:
            break
    whole = bytes(parts[0]) if len(parts) == 1 else b"".join(parts)
    if head[0] & TEXT:
        return {"type": "websocket.send", "text": whole.decode()}
    return {"type": "websocket.send", "bytes": whole}


async def _pass_messages(up: Upward, stream: ByteStream, receive: Receive) -> None:
    """Pass on what the client sends; what it has closed is closed for good a while later."""
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            up.end(pack(EndHead(message.get("code", NO_CODE), message.get("reason") or "")))
            break
        text = message.get("text")
        up.push(text.encode(), bytes([TEXT])) if text is not None else up.push(message["bytes"], bytes([BINARY]))
        if not await up.room():
            return
    await asyncio.sleep(LINGER_S)
    stream.close()
