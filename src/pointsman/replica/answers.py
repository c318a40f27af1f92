"""What user code returned, as what travels: HTTP status, headers and bytes, or a pickled object; whole, or as a stream.

A streamed answer is a head, chunks as the reader grants credit, and an end. What user code has made is an iterator,
sync or async, of any kind. Its first value decides what the stream is: text where it is text or bytes, otherwise lines
of JSON (NDJSON).
"""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from http import HTTPStatus
from typing import Any, NamedTuple

from pointsman.exceptions import AnswerError, UserCodeError
from pointsman.limits import MAX_BODY
from pointsman.replica.item import Item
from pointsman.replica.jsonform import to_json
from pointsman.wire import pickling
from pointsman.wire.frames import Kind
from pointsman.wire.messages import CODEC_HTTP, ReplyHead, pack

Headers = list[tuple[bytes, bytes]]

TEXT: Headers = [(b"content-type", b"text/plain")]
TEXT_UTF8: Headers = [(b"content-type", b"text/plain; charset=utf-8")]
JSON: Headers = [(b"content-type", b"application/json")]
NDJSON: Headers = [(b"content-type", b"application/x-ndjson")]

MAX_RESPONSE_HEAD = 64 * 1024
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
     b"transfer-encoding", b"upgrade")
)  # fmt: skip
OURS = frozenset((b"x-serve-backend", b"x-serve-policy-version", b"x-serve-request-id"))
"""Headers that the ingress adds: an answer that user code has fetched from another instance may bring them along."""
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(rb"[\0-\x08\n-\x1f\x7f]")


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes


def is_response(value: Any) -> bool:
    """Whether a value is a Starlette response. Does not import Starlette: who made one has."""
    module = sys.modules.get("starlette.responses")
    return module is not None and isinstance(value, module.Response)


def is_streaming(value: Any) -> bool:
    """Whether a value is a Starlette response that streams what it iterates."""
    module = sys.modules.get("starlette.responses")
    return module is not None and isinstance(value, module.StreamingResponse)


def needs_asgi(value: Any, http_method: str) -> bool:
    """Whether a Starlette response must be run to be sent: it streams, reads a file, has a background task, or a way of
    its own to be sent; or it tells a HEAD the length of a body that it has not made."""
    body = getattr(value, "body", None)
    own = type(value).__call__ is not sys.modules["starlette.responses"].Response.__call__
    if own or not isinstance(body, bytes) or value.background is not None:
        return True
    return http_method == "HEAD" and length_of(value.raw_headers) not in (None, len(body))


def is_iterator(value: Any) -> bool:
    """Whether a value is a sync iterator of any kind, which is streamed. A list is none; the files of ``tempfile`` are,
    as other files are, though their classes do not say so."""
    kind = type(value)
    if kind in PLAIN:
        return False
    return getattr(kind, "__next__", None) is not None or (kind.__module__ == "tempfile" and hasattr(kind, "__iter__"))


def is_async_iterator(value: Any) -> bool:
    """Whether a value is iterated by ``async for``, and so streamed."""
    kind = type(value)
    return kind not in PLAIN and (
        getattr(kind, "__anext__", None) is not None or getattr(kind, "__aiter__", None) is not None
    )


def is_long(value: Any, http_method: str) -> bool:
    """Whether a value takes its time to be sent: it is iterated, or run."""
    if type(value) in PLAIN:
        return False
    return is_iterator(value) or is_async_iterator(value) or (is_response(value) and needs_asgi(value, http_method))


PLAIN = frozenset((str, bytes, dict, list, tuple, int, float, bool, type(None)))
"""Types of the usual answers, which are neither iterated nor run: the others are looked at more closely."""


def is_text(value: Any) -> bool:
    """Whether a value of a stream is sent as it is, and not as JSON."""
    return isinstance(value, (str, bytes, bytearray, memoryview))


def encode_answer(value: Any, codec: int) -> Answer:
    """Turn a value into an answer.

    Raises:
        AnswerError: the value has no such form, or a header is not fit to be sent.
    """
    if codec != CODEC_HTTP:
        return Answer(200, [], dumps(value))
    if isinstance(value, str):
        return Answer(200, TEXT_UTF8, value.encode())
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Answer(200, TEXT, bytes(value))
    if value is None:
        return Answer(200, TEXT, b"")
    if is_response(value):
        return Answer(check_status(value.status_code), check_headers(value.raw_headers), value.body)
    if type(value) is tuple:
        _check_pair(value)
    return Answer(200, JSON, to_json(value))


def _check_pair(value: tuple[Any, ...]) -> None:
    """A tuple is a list in JSON; but one of a body and a status is a mistake of who is used to another framework.

    Text and a number is not taken for one: it may as well be a label and a count, and whether that can be sent must not
    depend on the count.

    Raises:
        AnswerError: it looks like one.
    """
    if not (len(value) == 2 or (len(value) == 3 and isinstance(value[2], dict))):
        return
    body, status = value[:2]
    is_body = body is None or isinstance(body, (dict, list)) or hasattr(body, "model_dump")
    is_body = is_body or (len(value) == 3 and isinstance(body, (str, bytes)))
    known = isinstance(status, HTTPStatus) or (type(status) is int and status in _STATUSES and is_body)
    if known or is_response(body):
        code = int(status) if known else 404
        raise AnswerError(
            f"a tuple of a body and the status {code} is not taken apart: return JSONResponse(body, status_code={code})"
            " or another Response of Starlette's, or a list if it is meant as JSON"
        )


_STATUSES = frozenset(int(status) for status in HTTPStatus if status >= 200)


def encode_chunk(value: Any, codec: int, *, lines: bool = False) -> bytes:
    """Turn one item of a stream into bytes; with ``lines``, JSON ends its line."""
    if codec != CODEC_HTTP:
        return dumps(value)
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return to_json(value) + b"\n" if lines else to_json(value)


def length_of(headers: Headers) -> int | None:
    """What headers of user code say of the length of the body; None where they say nothing, or nothing that counts."""
    found = {value for name, value in headers if name.lower() == b"content-length"}
    if len(found) != 1:
        return None
    value = found.pop()
    return int(value) if value.isdigit() and len(value) < 20 else None


def check_status(status: int) -> int:
    """The status of a response of user code.

    Raises:
        AnswerError: HTTP has no such final status.
    """
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise AnswerError(f"response status {status!r} is not between 200 and 599")
    return status


def check_headers(headers: Headers) -> Headers:
    """Headers of user code that may be sent on; hop-by-hop ones and those that the ingress sets are dropped.

    Raises:
        AnswerError: a name of other than token characters, a control character in a value, or a head over 64 KiB.
    """
    kept = []
    for name, value in headers:
        if not _NAME.fullmatch(name):
            raise AnswerError(f"response header name {name[:100]!r} must be letters, digits and !#$%&'*+-.^_`|~")
        if _CONTROL.search(value):
            raise AnswerError(f"response header {name[:100]!r} has a control character in its value")
        lower = name.lower()
        if lower not in HOP_BY_HOP and lower not in OURS and lower != b"content-length":
            kept.append((lower, value))
    size = sum(len(name) + len(value) + 4 for name, value in kept)
    if size > MAX_RESPONSE_HEAD:
        raise AnswerError(f"the response's headers take {size} bytes, over the limit of {MAX_RESPONSE_HEAD}")
    return kept


def dumps(value: Any) -> bytes:
    """Pack a value for a caller that takes Python objects.

    Raises:
        UserCodeError: it cannot be pickled, or is too large.
    """
    try:
        return pickling.dumps(value, what=f"a value of type {type(value).__name__}")
    except (TypeError, ValueError) as error:
        raise UserCodeError(str(error)) from error


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
            chunk = encode_chunk(value, item.head.codec, lines=lines)
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
            chunk = encode_chunk(value, item.head.codec, lines=lines)
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
