"""Runs Starlette responses as ASGI apps: those that stream, read a file, have a background task, or are the user's own.

The ASGI messages of a response become frames. A response that streams a sync iterable is run on the loop, while its
values are made on the thread of sync code, by the rules for a bare generator there: one stream at a time, closed as
soon as its reader has left (decision 0040). Starlette itself would use threads of its own.
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
    Closing,
    end_stream,
    no_reader,
    open_stream,
    send_chunk,
)

FEED_WINDOW = 4
"""Values that the thread may be ahead of the loop; chunks on their way to the reader are counted apart."""


def sync_source(response: Any) -> Any:
    """The sync iterable that a response streams; None if it streams none.

    Starlette has wrapped it in an async generator, ``iterate_in_threadpool``, which has no public way back: it is read
    from the frame of the generator, which must not have begun (decision 0040).
    """
    wrapped = getattr(response, "body_iterator", None)
    module = sys.modules.get("starlette.concurrency")
    if module is None or not inspect.isasyncgen(wrapped) or wrapped.ag_frame is None:
        return None
    if wrapped.ag_code is not module.iterate_in_threadpool.__code__:
        return None
    return wrapped.ag_frame.f_locals.get(wrapped.ag_code.co_varnames[0])


class Feed:
    """A bounded queue of values from the thread of sync code to a response that runs on the loop.

    Args:
        post: schedules a call on the loop, from the thread.
    """

    def __init__(self, post: Callable[..., None]) -> None:
        self._post = post
        self._free = threading.Semaphore(FEED_WINDOW)
        self._values: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
        self._closed = False
        self._finished = asyncio.Event()

    def fill(self, item: Item, source: Any, begin: Callable[..., None], response: Any) -> None:
        """Make all values. ``begin`` is called on the loop with the response once there is a first one. On the thread.

        Raises what user code raises before the first value. A later exception is raised in the response.
        """
        begun = False
        try:
            with Closing(source) as iterator:
                for value in iterator:
                    if not begun:
                        begun = True
                        item.enter_stream(opened=False)
                        self._post(begin, item, response, self)
                    if not self._free.acquire(timeout=STREAM_STALL_S):
                        raise no_reader()
                    if self._closed:
                        return
                    self._post(self._values.put_nowait, (value,))
        except BaseException as error:  # user code: raised again by `values`
            if not begun:
                raise
            self._post(self._values.put_nowait, (None, error))
            return
        if not begun:
            self._post(begin, item, response, self)
        self._post(self._values.put_nowait, ())

    def finish(self, item: Item) -> None:
        """Record that the thread makes no more values, and has closed their source. On the loop."""
        self._finished.set()

    async def values(self) -> AsyncGenerator[Any, None]:
        """The values, and the exception that was raised after them, if any. On the loop."""
        while True:
            match await self._values.get():
                case (value,):
                    self._free.release()
                    yield value
                case (_, error):
                    raise error
                case _:
                    return

    def close(self) -> None:
        """Have the thread stop at its next value. On the loop."""
        self._closed = True
        self._free.release()  # the thread may be waiting

    async def ended(self) -> None:
        """Have the thread stop, and return when it has. On the loop."""
        self.close()
        await self._finished.wait()


async def run_response(item: Item, response: Any, *, load: Callable[[], int], feed: Feed | None = None) -> None:
    """Run a response as an ASGI app, and send its messages as frames. Raises what user code raises.

    Args:
        load: number of calls in the replica, for the answer's head.
        feed: the values to stream, if the thread of sync code makes them.
    """
    item.credit = asyncio.Semaphore(STREAM_WINDOW)
    conversation = _Conversation(item, item.credit, load)
    # The source is not kept in a variable: a `map` over a generator closes it only when the last reference is gone.
    if feed is not None:
        response.body_iterator = feed.values()
    elif sync_source(response) is not None:
        response.body_iterator = on_threads(sync_source(response))
    try:
        if not item.over:
            await response(item.incoming().scope(), conversation.receive, conversation.send)
            conversation.check_ended()
    except Exception:  # a response that was stopped has been answered
        if not conversation.stopped:
            raise
    finally:
        close = getattr(getattr(response, "body_iterator", None), "aclose", None)
        if close is not None:
            await close()  # so that the producer cleans up now, not when it is collected
        if feed is not None:
            await feed.ended()


async def on_threads(source: Any) -> AsyncGenerator[Any, None]:
    """Iterate a sync iterable for async user code: each step on a worker thread, as in Starlette. Unlike there, the
    iterable is closed as soon as the reader has left and the running step has ended."""
    import anyio.to_thread

    nothing, each = object(), Closing(source)
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
        closing = asyncio.ensure_future(anyio.to_thread.run_sync(each.__exit__))  # clean-up of user code may block
        await _ended(closing)
        closing.result()


async def _ended(task: asyncio.Future[Any]) -> None:
    """Wait for a thread's work, which cannot be cancelled. A cancellation meanwhile is raised afterwards."""
    import anyio

    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):  # task groups of Starlette cancel in each iteration of the loop
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled


_NO_BODY = "this answer has no body: it is one to HEAD, or its status is 204 or 304"


class StoppedError(OSError):
    """Raised in a response that sends a body that is not wanted. ASGI specifies OSError for a closed connection."""


class _Conversation:
    """The ``receive`` and ``send`` of a response; messages are sent as frames.

    Attributes:
        stopped: the answer has no body and was ended, although the response sends one.
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
        await asyncio.Event().wait()  # there is no body to receive; a disconnect arrives as a cancellation
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
        """Check the answer after the response has returned.

        Raises:
            AnswerError: the response has not sent a whole answer.
        """
        if not self._ended:
            raise AnswerError("the response ended without sending a whole answer by 'await send(...)'")

    def _open(self, status: int, headers: Headers) -> None:
        checked, kept = check_status(status), check_headers(headers)
        self._bodiless = checked in (204, 304) or self._item.wants_no_body()
        # A 304 may have the length of the body that it omits, but the HTTP server would wait for that body.
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
