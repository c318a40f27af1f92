"""An app behind an ingress that keeps what it is given, and clients whose bytes come in pieces."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pytest

from pointsman.ingress.app import DirectFuture, IngressApp, Receive, Send
from pointsman.ingress.codec import Scope
from pointsman.ingress.exchange import Exchange
from pointsman.routing.reply import Reply
from pointsman.testing import settle
from tests.conftest import PURE_ONLY
from tests.loop.edge import SOON_S, edge


class Seen(NamedTuple):
    """A request as an app sees it."""

    method: bytes
    path: bytes
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class Recorder:
    """An app that answers 200 to each whole request, whatever it asks for."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def saw(self, scope: Scope, body: bytes) -> None:
        headers = tuple(scope["headers"])
        method = scope["method"].encode()
        self.seen.append(Seen(method, scope["raw_path"], scope["query_string"], headers, bytes(body)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        self.saw(scope, body)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})


class DirectRecorder(IngressApp):
    """The same on the direct way. Compiled code takes no app of a class that is not, so this way is tested of the
    sources."""

    recorder: Recorder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.recorder(scope, receive, send)

    def begin(self, scope: Scope, body: bytes, answer: DirectFuture) -> None:
        self.recorder.saw(scope, body)
        answer.exchange = Exchange(None, None, scope)
        asyncio.get_running_loop().call_soon(answer.set_result, Reply(200, [], b""))


WAYS = pytest.mark.parametrize(
    "middlewares", [pytest.param(False, id="direct", marks=PURE_ONLY), pytest.param(True, id="with middlewares")]
)


class Outcome(NamedTuple):
    """
    Attributes:
        seen: what the app was given.
        statuses: what the client was answered.
        closed: whether the connection was closed.
    """

    seen: tuple[Seen, ...]
    statuses: tuple[int, ...]
    closed: bool

    @property
    def refused(self) -> bool:
        """Whether the last answer is a refusal, and the connection closed behind it."""
        last = self.statuses[-1] if self.statuses else 0
        return self.closed and (400 <= last < 500 or last in (501, 505))


async def sent(pieces: list[bytes], *, middlewares: bool, kind: type[Recorder] = Recorder) -> Outcome:
    """What becomes of these, sent one after the other."""
    recorder = kind()
    way: dict[str, Any] = {"app": recorder} if middlewares else {"kind": DirectRecorder}
    async with edge(middlewares=middlewares, **way) as there:
        if isinstance(there.app, DirectRecorder):
            there.app.recorder = recorder
        client = await there.client()
        for piece in pieces:
            if client.closed_at is not None:
                break
            client.send(piece)
            await settle()
        await asyncio.sleep(SOON_S)
        statuses = tuple(status for status in client.statuses if status != 100)
        outcome = Outcome(tuple(recorder.seen), statuses, client.closed_at is not None)
        client.leave()
        await settle()
        assert there.tasks == 0
        return outcome
