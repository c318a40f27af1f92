"""Starlette responses that are run to be sent: they stream, read a file, have a background task or are the user's own.

The response speaks ASGI; here its messages become frames. A response that streams what sync code makes is run on the
loop, while the values are made on the one thread of sync code, under the rules of a bare generator there: one stream at
a time, which is closed as soon as its reader has left. Starlette by itself would use threads of its own.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any

from pointsman.exceptions import AnswerError
from pointsman.replica.answers import Headers, check_headers, check_status, length_of
from pointsman.replica.item import Item
from pointsman.replica.streams import (
    STREAM_STALL_S,
    STREAM_WINDOW,
    Each,
    end_stream,
    no_reader,
    open_stream,
    send_chunk,
)

FEED_WINDOW = 4
"""Values that the thread has made and the loop has not taken; those on their way to the reader come on top."""


def sync_source(response: Any) -> Any:
    """The sync iterable that a response streams, which Starlette has wrapped to run it on its own threads; None where
    it streams none."""
    wrapped = getattr(response, "body_iterator", None)
    module = sys.modules.get("starlette.concurrency")
    if module is None or not inspect.isasyncgen(wrapped) or wrapped.ag_frame is None:
        return None
    if wrapped.ag_code is not module.iterate_in_threadpool.__code__:
        return None
    return wrapped.ag_frame.f_locals.get(wrapped.ag_code.co_varnames[0])


class Feed:
    """Values on their way from the thread that makes them to a response that the loop runs.

    Args:
        post: has the loop call something, from the thread.
    """

    def __init__(self, post: Callable[..., None]) -> None:
        self._post = post
        self._room = threading.Semaphore(FEED_WINDOW)
        self._values: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self._closed = False
        self._finished = asyncio.Event()

    def fill(self, item: Item, source: Any, begin: Callable[..., None], response: Any) -> None:
        """On the thread: make all values, and have the loop ``begin`` with the response once there is a first one.
        Raises what user code raises before; later it is the response that fails."""
        begun = False
        try:
            with Each(source) as iterator:
                for value in iterator:
                    if not begun:
                        begun = True
                        item.enter_stream(opened=False)
                        self._post(begin, item, response, self)
                    if not self._room.acquire(timeout=STREAM_STALL_S):
                        raise no_reader()
                    if self._closed:
                        return
                    self._post(self._values.put_nowait, (value,))
        except BaseException as error:  # user code's: raised where the response asks for the next value
            if not begun:
                raise
            self._post(self._values.put_nowait, (None, error))
            return
        if not begun:
            self._post(begin, item, response, self)
        self._post(self._values.put_nowait, ())

    def finish(self, item: Item) -> None:
        """On the loop: the thread has made all values that it will make, and has closed what makes them."""
        self._finished.set()

    async def values(self) -> AsyncGenerator[Any, None]:
        """On the loop: the values, and what was raised after them."""
        while True:
            match await self._values.get():
                case (value,):
                    self._room.release()
                    yield value
                case (_, error):
                    raise error
                case _:
                    return

    def close(self) -> None:
        """On the loop: no more values are wanted."""
        self._closed = True
        self._room.release()

    async def ended(self) -> None:
        """Have the thread stop, and return when it has."""
        self.close()
        await self._finished.wait()


async def run_response(item: Item, response: Any, *, load: Callable[[], int], feed: Feed | None = None) -> None:
    """Run a response. Raises what user code raises.

    Args:
        load: calls in the replica, for the head.
        feed: what it streams, where sync code makes that on its thread.
    """
    item.credit = asyncio.Semaphore(STREAM_WINDOW)
    conversation = _Conversation(item, item.credit, load)
    # No name for a source here: a `map` is closed with all that it goes through when nothing refers to it any more.
    if feed is not None:
        response.body_iterator = feed.values()
    elif sync_source(response) is not None:
        response.body_iterator = on_threads(sync_source(response))
    try:
        if not item.over:
            await response(item.incoming().scope(), conversation.receive, conversation.send)
            conversation.check_ended()
    except Exception:  # what comes of a response that was stopped is nobody's affair
        if not conversation.stopped:
            raise
    finally:
        close = getattr(getattr(response, "body_iterator", None), "aclose", None)
        if close is not None:
            await close()  # the producer's own clean-up must not wait for the garbage collector
        if feed is not None:
            await feed.ended()


async def on_threads(source: Any) -> AsyncGenerator[Any, None]:
    """What a sync iterable gives that async code streams: each step on some thread, as Starlette does it. Other than
    there, it is closed as soon as the reader has left and the step has ended that ran."""
    import anyio.to_thread

    nothing, each = object(), Each(source)
    iterator = each.__enter__()
    step: asyncio.Future[Any] | None = None
    try:
        while True:
            step = asyncio.ensure_future(anyio.to_thread.run_sync(next, iterator, nothing))
            value = await asyncio.shield(step)
            if value is nothing:
                return
            yield value
    finally:
        if step is not None:
            await _ended(step)
        closing = asyncio.ensure_future(anyio.to_thread.run_sync(each.__exit__))  # what it does may take its time
        await _ended(closing)
        closing.result()


async def _ended(task: asyncio.Future[Any]) -> None:
    """Wait for the end of what a thread does, which nothing can stop: a cancellation is raised afterwards."""
    import anyio

    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):  # Starlette's task groups would cancel again and again
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled


_NO_BODY = "this answer has no body: it is one to HEAD, or its status is 204 or 304"


class StoppedError(OSError):
    """Raised in a response that goes on sending though nothing more is wanted; ASGI has OSError for that."""


class _Conversation:
    """What a response says in ASGI messages, as frames.

    Attributes:
        stopped: the reader wants no body, and has the end already.
    """

    def __init__(self, item: Item, credit: asyncio.Semaphore, load: Callable[[], int]) -> None:
        self._item = item
        self._credit = credit
        self._load = load
        self._length: int | None = None
        self._sent = 0
        self._ended = False
        self._bodiless = False
        self.stopped = False

    async def receive(self) -> dict[str, Any]:
        await asyncio.Event().wait()  # the client's going arrives as cancellation
        raise AssertionError("unreachable")

    async def send(self, message: dict[str, Any]) -> None:
        if self.stopped:
            raise StoppedError(_NO_BODY)
        kind = message["type"]
        if kind == "http.response.start" and not self._item.opened:
            self._open(message["status"], list(message.get("headers", [])))
        elif kind == "http.response.body" and self._item.opened and not self._ended:
            await self._body(message.get("body", b""), message.get("more_body", False))
        else:
            raise AnswerError(f"the response sent the ASGI message {kind!r} where none of that kind belongs")

    def check_ended(self) -> None:
        """The response has returned.

        Raises:
            AnswerError: it has sent no whole answer.
        """
        if not self._ended:
            raise AnswerError("the response ended without sending a whole answer by 'await send(...)'")

    def _open(self, status: int, headers: Headers) -> None:
        checked, kept = check_status(status), check_headers(headers)
        self._bodiless = checked in (204, 304) or self._item.wants_no_body()
        # A 304 may tell the length of what it spares the client, but the HTTP server would wait for as much to send.
        length = None if checked in (204, 304) else length_of(headers)
        if length is not None:
            kept.append((b"content-length", b"%d" % length))
        self._length = None if self._bodiless else length
        self._item.enter_stream()
        open_stream(self._item, self._load(), kept, checked)

    async def _body(self, body: bytes, more: bool) -> None:
        if self._bodiless:
            self._end()
            self.stopped = more
            if more:
                raise StoppedError(_NO_BODY)
            return
        self._sent += len(body)
        if self._length is not None and (self._sent > self._length or (not more and self._sent < self._length)):
            raise AnswerError(f"the response has not the {self._length} bytes that its content-length says")
        if body:
            await self._credit.acquire()
            send_chunk(self._item, bytes(body))
        if not more:
            self._end()

    def _end(self) -> None:
        self._ended = True
        end_stream(self._item)
