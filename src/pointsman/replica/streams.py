"""Streamed answers on their way out: a head, chunks as the reader grants credit, an end.

What user code has made is an iterator, sync or async, of any kind. The first value decides what the stream is: text
where it is text or bytes, otherwise lines of JSON (NDJSON).
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
"""Chunks on their way to a reader before its producer waits."""

STREAM_STALL_S = 30.0
"""How long the one thread of sync code waits for a reader that takes nothing, before others get their turn."""


def stream_from_thread(item: Item, values: Any, *, load: Callable[[], int], post: Callable[..., None]) -> None:
    """On the thread: go through a sync iterator, waiting for the reader's credit. Raises what user code raises."""
    item.credit = credit = threading.Semaphore(STREAM_WINDOW)
    lines = False
    with Each(values) as iterator:
        for value in iterator:
            if not item.opened:
                lines = not is_text(value)
            chunk = encode_chunk(value, item.request.codec, lines=lines)
            if not item.opened:  # not before there is a first chunk: until then a failure can still be told as one
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
    """On the loop: go through an async iterator, waiting for the reader's credit. Raises what user code raises."""
    item.credit = credit = asyncio.Semaphore(STREAM_WINDOW)
    lines = False
    async with EachAsync(values) as iterator:
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
    """Tell the caller that chunks will follow."""
    if not item.over:
        head = ReplyHead(status, headers if item.request.codec == CODEC_HTTP else [], load, True, *item.timing())
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


class Each:
    """The values of a sync iterable, or of an object that has ``__next__`` only, by a ``with`` statement. What can be
    closed is closed at its end, at once: the producer's own clean-up must not wait for the garbage collector."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __enter__(self) -> Iterator[Any]:
        values = self._values
        self._iterator = iter(values) if hasattr(type(values), "__iter__") else _Stepped(values)
        return self._iterator

    def __exit__(self, *error: object) -> None:
        for source in (self._iterator, self._values):
            close = getattr(source, "close", None)
            if callable(close):
                close()


class EachAsync:
    """The same by ``async with`` for an async iterable, or an object that has ``__anext__`` only."""

    def __init__(self, values: Any) -> None:
        self._values = values

    async def __aenter__(self) -> AsyncIterator[Any]:
        values = self._values
        self._iterator = values.__aiter__() if hasattr(type(values), "__aiter__") else _SteppedAsync(values)
        iterator: AsyncIterator[Any] = self._iterator
        return iterator

    async def __aexit__(self, *error: object) -> None:
        for source in (self._iterator, self._values):
            close = getattr(source, "aclose", None)
            closing = close() if callable(close) else None
            if inspect.isawaitable(closing):
                await closing


async def iterate(values: Any) -> AsyncGenerator[Any, None]:
    """A sync iterator that an async callable returned, gone through on the loop as its author chose."""
    with Each(values) as iterator:
        for value in iterator:
            yield value
            await asyncio.sleep(0)


class _Stepped:
    """Makes an iterator of what has ``__next__`` only."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __iter__(self) -> _Stepped:
        return self

    def __next__(self) -> Any:
        return next(self._values)


class _SteppedAsync:
    """The same for ``__anext__``."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __aiter__(self) -> _SteppedAsync:
        return self

    async def __anext__(self) -> Any:
        return await self._values.__anext__()
