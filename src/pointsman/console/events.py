"""Events as they are sent to viewers. Each is made, and compressed, once for all of them."""

from __future__ import annotations

import asyncio
import zlib
from functools import cached_property
from typing import Any

import msgspec

STATE, NUMBERS, LINK = "state", "numbers", "link"
KINDS = (STATE, LINK, NUMBERS)
"""What there is news of, in the order in which it is sent. A viewer that is late gets the newest of each, and not what
it has missed."""
AWAY, BACK = "away", "back"


class Event:
    """One server-sent event.

    Args:
        name: of the event.
        data: ready for JSON.
    """

    def __init__(self, name: str, data: Any) -> None:
        self.name = name
        self.raw = b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))

    @cached_property
    def deflated(self) -> bytes:
        """As part of any deflate stream: it refers to nothing before, and ends at a full byte."""
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return deflater.compress(self.raw) + deflater.flush(zlib.Z_FULL_FLUSH)


class News:
    """The newest event of each kind."""

    def __init__(self) -> None:
        self.newest: dict[str, Event] = {}
        self.over = False
        self._more = asyncio.Event()

    def publish(self, kind: str, event: Event) -> None:
        """Have all viewers get this in place of the one before."""
        self.newest[kind] = event
        self._wake()

    def end(self) -> None:
        """Nothing will come any more."""
        self.over = True
        self._wake()

    async def more(self) -> None:
        """Return with the next publication."""
        await self._more.wait()

    def _wake(self) -> None:
        more, self._more = self._more, asyncio.Event()
        more.set()
