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
from pointsman.console.guard import ON_ANSWERS
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


LOWERED = [(name, value.lower()) for name, value in ON_ANSWERS]


async def whole(scope: dict[str, Any], receive: Any, send: Send) -> None:
    body = b"host=" + dict(scope["headers"]).get(b"host", b"")
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]}
    )
    await send({"type": "http.response.body", "body": body})


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


def test_a_body_that_does_not_end_is_cut_off(listener: socket.socket, monkeypatch: Any) -> None:
    """Who sends a body on and on, after the answer to a request that needed none, loses the connection (S18)."""
    monkeypatch.setattr(server_module, "LAST_BODY_S", 0.05)
    endless = b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\nx"
    assert b"200 OK" in asyncio.run(left_by(listener, endless))


def test_a_body_without_measure_is_cut_off(listener: socket.socket) -> None:
    """A body that is read by nobody is not taken either, beyond what bodies may have (S18)."""
    sent = b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000000\r\n\r\n" + b"x" * 4 * 1024 * 1024
    asyncio.run(left_by(listener, sent))  # that it returns, says it


def test_what_is_no_request_gets_a_problem(listener: socket.socket) -> None:
    """Garbage is answered as any refusal is: a problem, that no cache keeps and no page frames (S18, CR6)."""
    answer = asyncio.run(left_by(listener, b"GARBAGE\r\n\r\n")).lower()
    assert answer.startswith(b"http/1.1 400 ")
    assert all(b"\r\n%b: %b\r\n" % header in answer for header in LOWERED)
    assert b"content-type: application/problem+json" in answer


def test_too_many_connections_get_a_problem(listener: socket.socket, monkeypatch: Any) -> None:
    """With too many connections the next one's request gets a 503 with the headers of every answer (S18)."""
    monkeypatch.setattr(server_module, "MOST_CONNECTIONS", 0)
    answer = asyncio.run(left_by(listener, HEAD)).lower()
    assert answer.startswith(b"http/1.1 503 ")
    assert all(b"\r\n%b: %b\r\n" % header in answer for header in LOWERED)


def test_the_host_of_a_whole_url_counts(listener: socket.socket) -> None:
    """A request for a whole URL is one to the host in it, whatever its header says (S3)."""
    sent = b"GET http://evil.example/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    assert b"host=evil.example" in asyncio.run(left_by(listener, sent))


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
