"""console.server: connections of the console, with and without TLS, and how they end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pointsman.console import server as server_module
from pointsman.console.server import ConsoleServer
from pointsman.engine.listening import listen
from pointsman.lock.tls import RenewedContext, TLSSpec
from pointsman.lock.watching import watched_certificates
from tests.certificates import VARIABLES, make_certificate, needs_openssl
from tests.conftest import WAIT_S

Send = Callable[[dict[str, Any]], Awaitable[None]]
HEAD = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


async def without_end(scope: dict[str, Any], receive: Any, send: Send) -> None:
    """An answer that goes on, as long as somebody reads it and beyond."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-scheme", scope["scheme"].encode())]})
    while True:
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await asyncio.sleep(0)


@pytest.fixture
def listener() -> socket.socket:
    return listen("127.0.0.1", 0)


def test_the_end_waits_for_nobody(listener: socket.socket) -> None:
    """The console is told to end while one page follows a stream, another has one open that it never reads, and a third
    connection has sent nothing: it ends (AD1)."""

    async def story() -> None:
        server = ConsoleServer(without_end, listener)
        serving = asyncio.ensure_future(server.serve())
        port = listener.getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD)
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        deaf = socket.create_connection(("127.0.0.1", port))
        deaf.sendall(HEAD)
        silent = socket.create_connection(("127.0.0.1", port))
        server.stop()
        await asyncio.wait_for(serving, WAIT_S)
        for connection in (deaf, silent):
            connection.close()
        writer.close()

    asyncio.run(story())


async def whole(scope: dict[str, Any], receive: Any, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: localhost\r\n", HEAD + b"GET / HTTP/1.1\r\nx-a: b\r\n"],
    ids=["silence", "half a line", "half a head", "half a second head"],
)
def test_a_head_that_does_not_end_is_cut_off(listener: socket.socket, monkeypatch: Any, sent: bytes) -> None:
    """Who holds a connection without ever finishing a request loses it (S18)."""
    monkeypatch.setattr(server_module, "HEAD_S", 0.05)
    assert asyncio.run(left_by(listener, sent)).count(b"200 OK") == sent.count(HEAD)


def test_a_head_without_an_end_is_cut_off(listener: socket.socket) -> None:
    """Headers that go on and on are not collected (S18)."""
    sent = b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: %s\r\n" % (number, b"y" * 1000) for number in range(2000))
    assert asyncio.run(left_by(listener, sent)) == b""


async def left_by(listener: socket.socket, sent: bytes) -> bytes:
    """What a client gets that sends this and waits, until it is cut off."""
    server = ConsoleServer(whole, listener)
    serving = asyncio.ensure_future(server.serve())
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
    got = b""
    try:
        writer.write(sent)
        while data := await asyncio.wait_for(reader.read(65536), WAIT_S):
            got += data
    except ConnectionError:
        pass  # cut off: that is what is waited for
    writer.transport.abort()
    server.stop()
    await asyncio.wait_for(serving, WAIT_S)
    return got


@needs_openssl
def test_a_console_with_certificates(listener: socket.socket, tmp_path: Path) -> None:
    """With a certificate the page is HTTPS; a renewed one is shown to whoever comes next (AD2)."""
    old, new = (make_certificate(tmp_path / name, host="127.0.0.1") for name in ("old", "new"))
    cert, key = (tmp_path / name for name in ("cert.pem", "key.pem"))

    def use(certificate: dict[str, str]) -> bytes:
        for path, name in ((key, VARIABLES[1]), (cert, VARIABLES[0])):
            path.unlink(missing_ok=True)
            path.write_bytes(Path(certificate[name]).read_bytes())
        return ssl.PEM_cert_to_DER_cert(cert.read_text())

    async def shown(port: int) -> bytes:
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.load_verify_locations(old[VARIABLES[2]])
        trusting.load_verify_locations(new[VARIABLES[2]])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        writer.write(HEAD)
        assert b"x-scheme: https" in await reader.readuntil(b"\r\n\r\n")
        found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return found

    async def story() -> None:
        first = use(old)
        context = RenewedContext()
        watched = watched_certificates(TLSSpec(str(cert), str(key)), context)
        server = ConsoleServer(without_end, listener, context)
        serving = asyncio.ensure_future(server.serve())
        port = listener.getsockname()[1]
        assert await shown(port) == first
        second = use(new)
        await watched.look()
        assert await shown(port) == second != first
        plain, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await plain.readuntil(b"\r\n\r\n")
        server.stop()
        await asyncio.wait_for(serving, WAIT_S)

    asyncio.run(story())
