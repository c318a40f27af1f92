"""A client of WebSockets without I/O, at the other end of a connection in memory."""

from __future__ import annotations

import asyncio
from typing import Any

from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.uri import parse_uri

from pointsman.testing import Pipe, settle
from tests.loop.edge import Edge


class SocketClient(asyncio.Protocol):
    """
    Attributes:
        response: to the handshake.
        messages: whole ones that have come: text or bytes.
        pings: that have come.
        pongs: whether pings are answered.
    """

    def __init__(self, path: str, subprotocols: list[str]) -> None:
        names: Any = subprotocols or None
        self.protocol = ClientProtocol(parse_uri(f"ws://x{path}"), subprotocols=names, max_size=None)
        self.messages: list[str | bytes] = []
        self.pings = 0
        self.pongs = True
        self.closed_at: float | None = None
        self._parts: list[bytes] = []
        self._text = False
        self._response: Any = None
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.protocol.send_request(self.protocol.connect())
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            self._event(event)
        if not self.pongs:
            self.protocol.writes = [data for data in self.protocol.writes if data[:1] != b"\x8a"]
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed_at = asyncio.get_running_loop().time()
        self.protocol.receive_eof()

    def flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.transport.write(data)

    def say(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self.protocol.send_text(message.encode())
        else:
            self.protocol.send_binary(message)
        self.flush()

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.protocol.send_close(code, reason)
        self.flush()

    @property
    def status(self) -> int | None:
        return None if self.response is None else int(self.response.status_code)

    @property
    def response(self) -> Any:
        return self._response or getattr(self.protocol.handshake_exc, "response", None)

    @property
    def close_code(self) -> int | None:
        close = self.protocol.close_rcvd
        return None if close is None else int(close.code)

    @property
    def close_reason(self) -> str:
        close = self.protocol.close_rcvd
        return "" if close is None else close.reason

    def _event(self, event: Any) -> None:
        if not hasattr(event, "opcode"):
            self._response = event
        elif event.opcode is Opcode.PING:
            self.pings += 1
        elif event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._text = event.opcode is Opcode.TEXT if event.opcode is not Opcode.CONT else self._text
            self._parts.append(bytes(event.data))
            if event.fin:
                whole, self._parts = b"".join(self._parts), []
                self.messages.append(whole.decode() if self._text else whole)


async def connect(
    there: Edge, path: str = "/b/x", *, subprotocols: list[str] | None = None
) -> tuple[SocketClient, Pipe]:
    """Ask for a WebSocket, and let the answer come."""
    client = SocketClient(path, subprotocols or [])
    protocol = there._uvicorn.config.http_protocol_class(
        config=there._uvicorn.config, server_state=there._uvicorn.server_state, app_state={}
    )
    there.connections.append(protocol)
    pipe = Pipe(client, protocol)
    await settle()
    await asyncio.sleep(0.02)
    return client, pipe
