"""Links between machines where the cluster has TLS: real sockets on the loopback interface, certificates of our own."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pointsman.wire.address import acceptor_context
from pointsman.wire.auth import ROLE_ROUTER
from pointsman.wire.blocking import BlockingStream
from pointsman.wire.encoding import encode_frame
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.shared import Sent, SharedStream
from pointsman.wire.stream import Stream, accept, dial, listen_tcp
from tests.certificates import HOST, VARIABLES, make_certificate, needs_openssl

pytestmark = needs_openssl

KEY = b"k" * 32
WHO = {"instance": "i", "role": ROLE_ROUTER, "identity": "7", "key": KEY}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_certificate(tmp_path_factory.mktemp("ours"))


@pytest.fixture
def environ(certificates: dict[str, str]) -> Iterator[pytest.MonkeyPatch]:
    """This process is in a cluster with TLS."""
    with pytest.MonkeyPatch.context() as patch:
        set_to(patch, certificates)
        yield patch


def set_to(patch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in ("RAY_USE_TLS", *VARIABLES):
        patch.delenv(name, raising=False)
    for name, value in variables.items():
        patch.setenv(name, value)


class User:
    """Answers each frame with the same body, and writes down what happened."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.over = asyncio.Event()
        self.frames: asyncio.Queue[Frame] = asyncio.Queue()
        self.streams: list[Stream] = []

    def stream_ready(self, stream: Stream) -> None:
        self.streams.append(stream)
        self.ready.set()

    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None:
        for frame in frames:
            self.frames.put_nowait(frame)
            if frame.kind == Kind.CALL:
                stream.send(Kind.REPLY, frame.call_id, frame.head, frame.body)

    def stream_lost(self, stream: Stream, error: Exception | None) -> None:
        self.over.set()


@asynccontextmanager
async def listening(user: User, kind: type[Stream] = Stream) -> AsyncIterator[str]:
    """The address of a listener that lets in who holds the key."""
    listener = listen_tcp(HOST)
    server = await accept(listener, user, instance="i", key_for=lambda role, identity: KEY, kind=kind)
    yield f"tcp:{HOST}:{listener.getsockname()[1]}"
    server.close()


def test_two_nodes_talk(environ: pytest.MonkeyPatch) -> None:
    """Calls and answers cross between nodes through TLS, large ones too, for loops and for threads without one."""

    async def main() -> None:
        here, there = User(), User()
        async with listening(there) as address:
            stream = await dial(address, here, **WHO)
            await here.ready.wait()
            body = bytes(range(256)) * 16384
            for call_id in (1, 2):
                stream.send(Kind.CALL, call_id, b"head", body)
                stream.send(Kind.CALL, call_id + 10, b"", b"small")
            await stream.flushed()
            answers = [await here.frames.get() for _ in range(4)]
            assert [(a.kind, a.call_id) for a in answers] == [(Kind.REPLY, n) for n in (1, 11, 2, 12)]
            assert bytes(answers[0].body) == body
            assert bytes(answers[3].body) == b"small"
            stream.close()
            await asyncio.to_thread(ask_without_a_loop, address)

    asyncio.run(main())


def ask_without_a_loop(address: str) -> None:
    stream = BlockingStream(address, **WHO)
    stream.send(Kind.CALL, 5, b"head")
    assert [(frame.kind, frame.call_id) for frame in stream.receive()] == [(Kind.REPLY, 5)]
    stream.close()


@pytest.mark.parametrize("tls", [True, False])
def test_a_thread_writes_to_plain_connections_only(environ: pytest.MonkeyPatch, tls: bool) -> None:
    """With TLS all that travels is encrypted: a second writer of a connection writes nothing past that (S10)."""
    if not tls:
        environ.delenv("RAY_USE_TLS")

    async def main() -> None:
        here, there = User(), User()
        async with listening(there, SharedStream) as address:
            stream = await dial(address, here, **WHO)
            await here.ready.wait()
            stream.send(Kind.CALL, 1)
            assert (await here.frames.get()).call_id == 1
            (shared,) = there.streams
            assert isinstance(shared, SharedStream)
            sent = await asyncio.to_thread(shared.try_send_now, encode_frame(Kind.REPLY, 2), lambda: None)
            assert sent is (Sent.NOTHING if tls else Sent.ALL)
            shared.send(Kind.REPLY, 3)
            assert (await here.frames.get()).call_id == (3 if tls else 2)
            stream.close()
            await there.over.wait()

    asyncio.run(main())


def test_a_plaintext_peer_is_refused(environ: pytest.MonkeyPatch) -> None:
    """Who speaks plaintext is turned away before a byte of it is looked at, though it holds the key; and a node with
    TLS does not talk to a listener without."""

    async def main() -> None:
        here, there = User(), User()
        async with listening(there) as address:
            environ.delenv("RAY_USE_TLS")
            await dial(address, here, **WHO)
            await here.over.wait()
            assert not here.ready.is_set()
            assert not there.ready.is_set()
            assert there.frames.empty()
            async with listening(User()) as plain:
                environ.setenv("RAY_USE_TLS", "1")
                with pytest.raises((OSError, asyncio.TimeoutError)):
                    await dial(plain, User(), **WHO)

    asyncio.run(main())


def test_certificates_of_another_authority_are_refused(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A listener whose certificate is of another authority, or for another address, is not talked to."""

    async def main() -> None:
        there = User()
        async with listening(there) as address:
            for stranger in (make_certificate(tmp_path / "stranger"), make_certificate(tmp_path / "else", host="::1")):
                set_to(environ, stranger)
                with pytest.raises(OSError, match=r"(?i)certificate"):
                    await dial(address, User(), **WHO)
                with pytest.raises(OSError, match=r"(?i)certificate"):
                    await asyncio.to_thread(BlockingStream, address, **WHO)
        assert not there.ready.is_set()

    asyncio.run(main())


def test_a_dialer_must_show_a_certificate(environ: pytest.MonkeyPatch, certificates: dict[str, str]) -> None:
    """Ray's links ask for certificates of both ends, and so do ours: TLS alone does not let anybody in."""

    async def main() -> None:
        there = User()
        async with listening(there) as address:
            assert await asyncio.to_thread(come_without, address, certificates["RAY_TLS_CA_CERT"]) == b""
        assert not there.ready.is_set()

    asyncio.run(main())


def come_without(address: str, authority: str) -> bytes:
    """What a peer gets that knows the authority and shows nothing."""
    context = ssl.create_default_context(cafile=authority)
    host, _, port = address.removeprefix("tcp:").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), 5) as plain:
            return context.wrap_socket(plain, server_hostname=host).recv(1)
    except OSError:
        return b""


@pytest.mark.parametrize("missing", VARIABLES)
def test_a_missing_certificate_is_an_error(environ: pytest.MonkeyPatch, missing: str) -> None:
    """TLS that is switched on without certificates keeps a listener from coming up, and the text names what is missing
    (S10)."""
    environ.delenv(missing)
    with pytest.raises(OSError, match=f"RAY_USE_TLS=1 needs {missing}"):
        acceptor_context()


def test_an_unreadable_certificate_is_an_error(environ: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same for a file that is no certificate (S10)."""
    (tmp_path / "empty").touch()
    environ.setenv("RAY_TLS_CA_CERT", str(tmp_path / "empty"))
    with pytest.raises(OSError, match="cannot be used"):
        acceptor_context()


def test_no_tls_unless_asked_for(environ: pytest.MonkeyPatch) -> None:
    """Elsewhere links are as they were: no context is made."""
    environ.setenv("RAY_USE_TLS", "0")
    assert acceptor_context() is None
