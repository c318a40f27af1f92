"""Streamed answers on their way out: a head, chunks as the reader grants credit, an end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

from pointsman.limits import MAX_BODY
from pointsman.replica.answers import TEXT_UTF8, Headers, check_headers, check_status, encode_chunk
from pointsman.replica.item import Item
from pointsman.wire.frames import Kind
from pointsman.wire.messages import CODEC_HTTP, ReplyHead, pack

STREAM_WINDOW = 16
"""Chunks on their way to a reader before its producer waits."""

STREAM_STALL_S = 30.0
"""How long the one thread of sync code waits for a reader that takes nothing, before others get their turn."""


def stream_from_thread(
    item: Item, values: Generator[Any, Any, Any], *, load: Callable[[], int], post: Callable[..., None]
) -> None:
    """On the thread: iterate a sync generator, waiting for the reader's credit. Raises what user code raises."""
    item.credit = credit = threading.Semaphore(STREAM_WINDOW)
    opened = False
    try:
        for value in values:
            if not opened:  # not before there is a first value: until then a failure can still be told as one
                opened = True
                item.enter_stream()
                post(open_stream, item, load(), TEXT_UTF8)
            if not credit.acquire(timeout=STREAM_STALL_S):
                raise TimeoutError(f"the reader of a stream took nothing for {STREAM_STALL_S:g} s")
            if item.over:
                break
            post(send_chunk, item, encode_chunk(value, item.head.codec))
        if not opened:
            post(open_stream, item, load(), TEXT_UTF8)
    finally:
        values.close()


async def stream_values(item: Item, values: AsyncGenerator[Any, Any], *, load: Callable[[], int]) -> None:
    """On the loop: iterate an async generator, waiting for the reader's credit. Raises what user code raises."""
    item.credit = credit = asyncio.Semaphore(STREAM_WINDOW)
    opened = False
    # Closed at once when the reader leaves: the producer's own clean-up must not wait for the garbage collector.
    async with contextlib.aclosing(values):
        async for value in values:
            if not opened:
                opened = True
                item.enter_stream()
                open_stream(item, load(), TEXT_UTF8)
            await credit.acquire()
            if item.over:
                break
            send_chunk(item, encode_chunk(value, item.head.codec))
    if not opened:
        open_stream(item, load(), TEXT_UTF8)


async def run_response(item: Item, response: Any, *, load: Callable[[], int]) -> None:
    """Run a Starlette response that streams, reads a file or has a background task."""
    item.credit = credit = asyncio.Semaphore(STREAM_WINDOW)

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()  # the client's going arrives as cancellation
        raise AssertionError("unreachable")

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            headers = check_headers(message.get("headers", []))
            item.enter_stream()
            open_stream(item, load(), headers, check_status(message["status"]))
            return
        if message.get("body"):
            await credit.acquire()
            send_chunk(item, message["body"])
        if not message.get("more_body", False):
            end_stream(item)

    await response(item.incoming().scope(), receive, send)


def open_stream(item: Item, load: int, headers: Headers, status: int = 200) -> None:
    """Tell the caller that chunks will follow."""
    if not item.over:
        head = ReplyHead(status, headers if item.head.codec == CODEC_HTTP else [], load, True, *item.timing())
        item.stream.send(Kind.REPLY, item.call_id, pack(head))


def send_chunk(item: Item, chunk: bytes) -> None:
    """One more chunk; the producer has taken the credit for it. One that no frame can hold goes in several: only bytes
    of HTTP are ever so large, where it makes no difference."""
    if item.over:
        return
    size = len(chunk)
    parts = (chunk,) if size <= MAX_BODY else (chunk[at : at + MAX_BODY] for at in range(0, size, MAX_BODY))
    for part in parts:
        item.stream.send(Kind.CHUNK, item.call_id, b"", part)


def end_stream(item: Item) -> None:
    """Tell the caller that this was all."""
    if not item.over:
        item.stream.send(Kind.END, item.call_id)


async def iterate(values: Generator[Any, Any, Any]) -> AsyncGenerator[Any, None]:
    """A sync generator that an async callable returned, iterated on the loop as its author chose."""
    for value in values:
        yield value
        await asyncio.sleep(0)
