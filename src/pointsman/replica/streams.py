"""Streamed answers on their way out: a head, chunks as the reader grants credit, an end. On the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from typing import Any

from pointsman.replica.answers import Headers
from pointsman.replica.item import Item
from pointsman.wire.frames import Kind
from pointsman.wire.messages import CODEC_HTTP, ReplyHead, pack

STREAM_WINDOW = 16
"""Chunks on their way to a reader before its producer waits."""

STREAM_STALL_S = 30.0
"""How long the one thread of sync code waits for a reader that takes nothing, before others get their turn."""


def open_stream(item: Item, load: int, headers: Headers, status: int = 200) -> None:
    """Tell the caller that chunks will follow."""
    if not item.over:
        head = ReplyHead(status, headers if item.head.codec == CODEC_HTTP else [], load, stream=True)
        item.stream.send(Kind.REPLY, item.call_id, pack(head))


def send_chunk(item: Item, chunk: bytes) -> None:
    """One more chunk; the producer has taken the credit for it."""
    if not item.over:
        item.stream.send(Kind.CHUNK, item.call_id, b"", chunk)


async def iterate(values: Generator[Any, Any, Any]) -> AsyncGenerator[Any, None]:
    """A sync generator that an async callable returned, iterated on the loop as its author chose."""
    for value in values:
        yield value
        await asyncio.sleep(0)
