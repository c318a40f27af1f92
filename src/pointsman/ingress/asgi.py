"""Scopes and messages of ASGI, and what an app and its server must know of each other beside the standard."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from pointsman.ingress.codec import Headers, Scope, where_of
from pointsman.routing.reply import Reply

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

DISCONNECT_HOOK = "pointsman.on_disconnect"
"""Key in ``scope["state"]`` of the function that the server calls when the client has disconnected."""
REFUSED = "pointsman.refused"
"""Key in ``scope["state"]`` that marks a request refused for lack of free capacity."""


GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
DENIAL = "websocket.http.response"
VERSION = b"13"
"""Of WebSockets."""


class BrokenAnswer(Exception):
    """A streamed answer broke; raised out of the app so that the server cuts the connection."""


def whole_scope(scope: Scope, transport: asyncio.Transport) -> Scope:
    """The ASGI scope of a request, made of the part that the reader has made."""
    scheme, server = where_of(transport)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "scheme": scheme,
        "server": server,
        "root_path": "",
        "path": unquote(scope["raw_path"].decode("ascii")),
        "state": {},
        **scope,
    }


def response_head(reply: Reply, extra: Headers) -> dict[str, Any]:
    """The message that starts the answer. The caller has checked the reply's headers."""
    headers = [*reply.headers, *extra]
    if reply.stream is None and reply.status not in (204, 304):
        headers.append((b"content-length", b"%d" % len(reply.body)))
    return {"type": "http.response.start", "status": reply.status, "headers": headers}


async def send_whole(send: Send, status: int, body: bytes, headers: Headers) -> None:
    """Send an answer in one piece. Its length is added to the headers."""
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def as_denial(send: Send) -> Send:
    """A ``send`` for the answer that denies a WebSocket."""

    async def sending(message: dict[str, Any]) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return sending


def key_of(headers: Headers) -> bytes | None:
    """The key of a handshake; None where the handshake is not as it must be."""
    keys = [value.strip() for name, value in headers if name == b"sec-websocket-key"]
    versions = [value.strip() for name, value in headers if name == b"sec-websocket-version"]
    if len(keys) != 1 or versions != [VERSION]:
        return None
    try:
        valid = len(base64.b64decode(keys[0], validate=True)) == 16
    except (binascii.Error, ValueError):
        return None
    return keys[0] if valid else None


def socket_part(scope: dict[str, Any]) -> dict[str, Any]:
    """What the scope of a WebSocket has beside that of a request, or in its place."""
    offered = [value for name, value in scope["headers"] if name == b"sec-websocket-protocol"]
    names = [name.strip() for value in offered for name in value.decode("latin-1").split(",")]
    return {
        "type": "websocket",
        "scheme": "wss" if scope["scheme"] == "https" else "ws",
        "subprotocols": [name for name in names if name],
        "extensions": {DENIAL: {}},
    }


def accepting(key: bytes) -> Headers:
    """The headers that accept a handshake with this key."""
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    return [(b"upgrade", b"websocket"), (b"connection", b"Upgrade"), (b"sec-websocket-accept", accept)]
