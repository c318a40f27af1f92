"""Sends the newest events to one viewer, for as long as it takes them."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from struct import pack

from starlette.types import Receive, Scope, Send

from pointsman.console.events import KINDS, Event, News
from pointsman.console.server import ABORT

MAX_VIEWERS = 200
STALL_S = 10.0
"""A viewer that takes nothing for so long is cut off."""
ASK_AGAIN_S = 30.0
PIECE = 32 * 1024

_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"


class Viewers:
    """Counts who looks."""

    def __init__(self) -> None:
        self.count = 0

    @property
    def full(self) -> bool:
        return self.count >= MAX_VIEWERS

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count one while it is there."""
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


class LiveResponse:
    """An ASGI response that sends events until the viewer leaves, takes nothing for ten seconds, or nothing comes any
    more.

    Args:
        news: of which it is told.
        viewers: it is counted here.
        admitted: whether the viewer may still look; asked twice a minute.
        compressed: whether the viewer takes gzip.
    """

    def __init__(
        self, news: News, viewers: Viewers, *, admitted: Callable[[], Awaitable[bool]], compressed: bool
    ) -> None:
        self._news = news
        self._viewers = viewers
        self._admitted = admitted
        self._compressed = compressed
        self._checksum = self._size = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        if self._compressed:
            headers.append((b"content-encoding", b"gzip"))
        with self._viewers.one_more():
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            # Whichever comes first: nothing is left to send, or the viewer has left or may not look any more.
            tasks = [asyncio.ensure_future(one) for one in (self._send_all(send), _left(receive), self._shut_out())]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
            if isinstance(ended[0], asyncio.TimeoutError):
                abort(scope)

    async def _send_all(self, send: Send) -> None:
        if self._compressed:
            await self._send(send, _GZIP_HEAD)
        last: dict[str, Event] = {}
        while not self._news.over:
            kind = next((kind for kind in KINDS if last.get(kind) is not self._news.newest.get(kind)), None)
            if kind is None:
                await self._news.more()
                continue
            last[kind] = self._news.newest[kind]
            await self._send_event(send, last[kind])
        end = b""
        if self._compressed:
            end = b"\x03\x00" + pack("<LL", self._checksum, self._size & 0xFFFFFFFF)
        await send({"type": "http.response.body", "body": end})

    async def _shut_out(self) -> None:
        while True:
            await asyncio.sleep(ASK_AGAIN_S)
            if not await self._admitted():
                return

    async def _send_event(self, send: Send, event: Event) -> None:
        if not self._compressed:
            await self._send(send, event.raw)
            return
        self._checksum = zlib.crc32(event.raw, self._checksum)
        self._size += len(event.raw)
        await self._send(send, event.deflated)

    async def _send(self, send: Send, data: bytes) -> None:
        # In pieces: what a viewer does not take is kept for it, and that shall be little.
        for start in range(0, len(data), PIECE):
            message = {"type": "http.response.body", "body": data[start : start + PIECE], "more_body": True}
            await asyncio.wait_for(send(message), STALL_S)


def abort(scope: Scope) -> None:
    """Cut the connection of a request, and drop what was not sent on it."""
    cut = scope.get("state", {}).get(ABORT)
    if cut is not None:
        cut()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
