"""Sends streamed answers: a head, chunks while the reader grants credit, an end.

User code returns an iterator, sync or async. Its first value decides the content type: text or bytes make plain text,
all others lines of JSON (NDJSON).
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

from pointsman.incoming import CODEC_HTTP
from pointsman.limits import MAX_BODY
from pointsman.replica.answers import NDJSON, TEXT_UTF8, Headers, encode_chunk, is_text
from pointsman.replica.item import Item
from pointsman.wire.frames import Kind
from pointsman.wire.messages import ReplyHead, pack

STREAM_WINDOW = 16
"""Chunks that may be on their way to the reader; then the producer waits."""

STREAM_STALL_S = 30.0
"""How long a stream may block the thread of sync code while its reader takes nothing."""


def stream_from_thread(item: Item, values: Any, *, load: Callable[[], int], post: Callable[..., None]) -> None:
    """Send the values of a sync iterator as the reader grants credit. On the thread. Raises what user code raises."""
    item.credit = credit = threading.Semaphore(STREAM_WINDOW)
    lines = False
    with Closing(values) as iterator:
        for value in iterator:
            if not item.opened:
                lines = not is_text(value)
            chunk = encode_chunk(value, item.request.codec, lines=lines)
            if not item.opened:  # only with the first chunk: until then a failure can be sent as an error
                item.enter_stream()
                post(open_stream, item, load(), NDJSON if lines else TEXT_UTF8)
            if item.wants_no_body():
                break
            if not credit.acquire(timeout=STREAM_STALL_S):
                raise no_reader()
            if item.over:
                break
            post(send_chunk, item, chunk)
        if not item.opened:
            item.enter_stream()
            post(open_stream, item, load(), TEXT_UTF8)


async def stream_values(item: Item, values: Any, *, load: Callable[[], int]) -> None:
    """Send the values of an async iterator as the reader grants credit. On the loop. Raises what user code raises."""
    item.credit = credit = asyncio.Semaphore(STREAM_WINDOW)
    lines = False
    async with ClosingAsync(values) as iterator:
        async for value in iterator:
            if not item.opened:
                lines = not is_text(value)
            chunk = encode_chunk(value, item.request.codec, lines=lines)
            if not item.opened:
                item.enter_stream()
                open_stream(item, load(), NDJSON if lines else TEXT_UTF8)
            if item.wants_no_body():
                break
            await credit.acquire()
            if item.over:
                break
            send_chunk(item, chunk)
    if not item.opened:
        item.enter_stream()
        open_stream(item, load(), TEXT_UTF8)


def no_reader() -> TimeoutError:
    return TimeoutError(f"the reader of a stream took nothing for {STREAM_STALL_S:g} s")


def open_stream(item: Item, load: int, headers: Headers, status: int = 200) -> None:
    """Send the head of a streamed answer."""
    if not item.over:
        head = ReplyHead(status, headers if item.request.codec == CODEC_HTTP else [], load, True, *item.timing())
        item.stream.send(Kind.REPLY, item.call_id, pack(head))


def send_chunk(item: Item, chunk: bytes) -> None:
    """Send one chunk, for which the producer has acquired credit. A chunk over the limit of a frame is split: only
    bytes for HTTP clients can be that large, and there the borders of chunks have no meaning."""
    if item.over:
        return
    size = len(chunk)
    parts = (chunk,) if size <= MAX_BODY else (chunk[at : at + MAX_BODY] for at in range(0, size, MAX_BODY))
    for part in parts:
        item.stream.send(Kind.CHUNK, item.call_id, b"", part)


def end_stream(item: Item) -> None:
    """Send the end of a streamed answer."""
    if not item.over:
        item.stream.send(Kind.END, item.call_id)


class Closing:
    """Context manager that gives an iterator over a sync iterable, or over an object with ``__next__`` only, and closes
    it at the end: clean-up of user code must not wait for the garbage collector."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __enter__(self) -> Iterator[Any]:
        values = self._values
        self._iterator = iter(values) if hasattr(type(values), "__iter__") else _NextOnly(values)
        return self._iterator

    def __exit__(self, *error: object) -> None:
        for source in (self._iterator, self._values):
            close = getattr(source, "close", None)
            if callable(close):
                close()


class ClosingAsync:
    """The same by ``async with``, for an async iterable or an object with ``__anext__`` only."""

    def __init__(self, values: Any) -> None:
        self._values = values

    async def __aenter__(self) -> AsyncIterator[Any]:
        values = self._values
        self._iterator = values.__aiter__() if hasattr(type(values), "__aiter__") else _AnextOnly(values)
        iterator: AsyncIterator[Any] = self._iterator
        return iterator

    async def __aexit__(self, *error: object) -> None:
        for source in (self._iterator, self._values):
            close = getattr(source, "aclose", None)
            closing = close() if callable(close) else None
            if inspect.isawaitable(closing):
                await closing


async def iterate(values: Any) -> AsyncGenerator[Any, None]:
    """Iterate on the loop a sync iterator that async user code returned; other tasks run between its values."""
    with Closing(values) as iterator:
        for value in iterator:
            yield value
            await asyncio.sleep(0)


class _NextOnly:
    """Makes an iterator of an object with ``__next__`` only."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __iter__(self) -> _NextOnly:
        return self

    def __next__(self) -> Any:
        return next(self._values)


class _AnextOnly:
    """Makes an async iterator of an object with ``__anext__`` only."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __aiter__(self) -> _AnextOnly:
        return self

    async def __anext__(self) -> Any:
        return await self._values.__anext__()
