"""Futures of handle calls: the answer as a value or a stream, for threads and for event loops."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar, overload

from pointsman.calling.dispatch import Dispatcher, HandleCall, wake
from pointsman.exceptions import ServeException
from pointsman.routing.reply import ReplyStream, StreamBroken
from pointsman.wire.failures import failure_to_exception
from pointsman.wire.frames import Body
from pointsman.wire.pickling import loads

log = logging.getLogger("pointsman")

T = TypeVar("T")

_NOTHING: Any = object()


class ServeFuture(Generic[T]):
    """The future answer of a handle call. Made by handles."""

    __slots__ = ("__weakref__", "_call", "_dispatcher", "_iterable", "_value")

    def __init__(self, dispatcher: Dispatcher, call: HandleCall, *, iterable: bool = False) -> None:
        self._dispatcher = dispatcher
        self._call = call
        self._iterable = iterable
        self._value: T = _NOTHING

    def result(self, timeout: float | None = None) -> T:
        """The value; an iterator when the backend streams.

        Args:
            timeout: seconds to wait; the call goes on when they have passed. None waits until the call's deadline.

        Raises:
            TimeoutError: ``timeout`` passed.
            RuntimeError: called before the answer has arrived, on the thread that would bring it: that of an async
                handle's event loop, where ``await`` is right, or that of a callback.
            Exception: what user code raised, with the remote traceback as its cause; or a ServeException of ours.
        """
        self._wait(timeout)
        if self._call.error is not None:
            try:
                raise self._call.error
            finally:
                del self  # the traceback refers to this frame, and through it the error would refer to itself
        stream = self._call.stream
        return self._decoded() if stream is None else _iterate(self._dispatcher, stream)  # type: ignore[return-value]

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What :meth:`result` would raise, or None when there is a value. Waits, and raises, like :meth:`result`.

        Args:
            timeout: seconds to wait, as for :meth:`result`.
        """
        self._wait(timeout)
        return self._call.error

    def cancel(self) -> bool:
        """Give the call up: a queued one is removed, a running async one cancelled, the result of a running sync one
        dropped. False when it is over already.

        Returns:
            Whether it was given up: False when it is over already.
        """
        if self._call.over:
            return False
        self._call.cancel()
        return True

    def done(self) -> bool:
        """Whether the answer is there, or will never be."""
        return self._call.over

    def add_done_callback(self, callback: Callable[[ServeFuture[T]], object]) -> None:
        """Call ``callback`` with this future once the call is over; at once when it is already.

        It runs where the answer arrives: on a thread that all sync handles of the process share, or on the event loop
        of an async handle. It must not block there. What it raises is logged.

        Args:
            callback: a function of the future.
        """
        self._call.watch(partial(_run_callback, callback, self))

    def __await__(self) -> Generator[Any, None, T]:
        """The value, or an async iterator. A task that is cancelled while it waits gives the call up."""
        call = self._call
        if not call.over:
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            if loop is not self._dispatcher.loop:
                call.watch(partial(_wake_elsewhere, loop, waiter))
            elif call.waiter is None:
                call.waiter = waiter
            else:
                call.watch(partial(wake, waiter))
            try:
                yield from waiter
            except asyncio.CancelledError:
                self.cancel()
                raise
        if call.error is not None:
            try:
                raise call.error
            finally:
                del self, call  # as in `result`
        stream = call.stream
        return self._decoded() if stream is None else _iterate_async(self._dispatcher, stream)  # type: ignore[return-value]

    def __iter__(self) -> Iterator[Any]:
        """The chunks of a call of ``handle.options(stream=True)``."""
        self._check_iterable()
        value = self.result()
        if not isinstance(value, Iterator):
            raise TypeError(f"the backend answered with a {type(value).__name__} and not with a stream")
        return value

    async def __aiter__(self) -> AsyncGenerator[Any, None]:
        self._check_iterable()
        value = await self
        if not isinstance(value, AsyncIterator):
            raise TypeError(f"the backend answered with a {type(value).__name__} and not with a stream")
        async for chunk in value:
            yield chunk

    def __repr__(self) -> str:
        state = "waits" if not self._call.over else "failed" if self._call.error is not None else "done"
        return f"<{type(self).__name__} of {self._call.request.endpoint!r}: {state}>"

    def _wait(self, timeout: float | None) -> None:
        if self._call.over:
            return
        if threading.get_ident() == self._dispatcher.thread:
            raise RuntimeError("this would block the thread that brings the answer; use 'await future' instead")
        if not self._call.wait(timeout):
            raise TimeoutError(f"no answer within {timeout:g} s; the call goes on")

    def _decoded(self) -> T:
        if self._value is _NOTHING:
            self._value = loads(self._call.answer)
        return self._value

    def _check_iterable(self) -> None:
        if not self._iterable:
            raise TypeError("only calls of handle.options(stream=True) can be iterated")


class Sending(Coroutine[Any, Any, ServeFuture[Any]]):
    """What ``remote`` of an async handle returns: awaited, it sends the call and gives the future. With ``stream=True``
    it can also be iterated directly, ``async for chunk in handle.remote()``.

    Args:
        send: makes and submits the call of ``data`` and ``kwargs``, and returns its future. Suspends only while the
            endpoint's queue is full.
    """

    __slots__ = ("_data", "_kwargs", "_send", "_steps")

    def __init__(
        self,
        send: Callable[[Any, dict[str, Any]], Generator[Any, None, ServeFuture[Any]]],
        data: Any,
        kwargs: dict[str, Any],
    ) -> None:
        self._send = send
        self._data = data
        self._kwargs = kwargs
        self._steps: Generator[Any, None, ServeFuture[Any]] | None = None

    def __await__(self) -> Generator[Any, None, ServeFuture[Any]]:
        if self._steps is not None:
            raise RuntimeError("cannot reuse an already awaited call; await the future that it gave")
        self._steps = self._send(self._data, self._kwargs)
        return self._steps

    def send(self, value: Any, /) -> Any:
        return (self._steps or self.__await__()).send(value)

    def throw(self, *error: Any) -> Any:
        return (self._steps or self.__await__()).throw(*error)

    def close(self) -> None:
        if self._steps is not None:
            self._steps.close()

    async def __aiter__(self) -> AsyncGenerator[Any, None]:
        async for chunk in await self:
            yield chunk


@overload
def get(future: ServeFuture[T], timeout: float | None = None) -> T: ...


@overload
def get(future: Sequence[ServeFuture[T]], timeout: float | None = None) -> list[T]: ...


def get(future: ServeFuture[T] | Sequence[ServeFuture[T]], timeout: float | None = None) -> T | list[T]:
    """The value of a future, or the list of values of a list of futures, in order.

    Args:
        future: one of ``handle.remote``, or a list of them.
        timeout: seconds to wait for all of them together; None waits until the calls' deadlines.

    Raises:
        TimeoutError: ``timeout`` passed; the calls go on.
        Exception: what user code raised; of a list, the first failure in its order.
    """
    if isinstance(future, ServeFuture):
        return future.result(timeout)
    if timeout is None:
        return [one.result() for one in _checked(future)]
    give_up_at = time.monotonic() + timeout
    return [one.result(max(0.0, give_up_at - time.monotonic())) for one in _checked(future)]


def wait(
    futures: Sequence[ServeFuture[T]], num_returns: int = 1, timeout: float | None = None
) -> tuple[list[ServeFuture[T]], list[ServeFuture[T]]]:
    """Wait until some of the calls are over, whether they succeeded or not.

    Args:
        futures: different ones.
        num_returns: how many to wait for.
        timeout: seconds to wait; None waits until the calls' deadlines.

    Returns:
        Those that are over, at most ``num_returns`` of them, and all others; both in the order given. When the time
        has passed there may be fewer of the first.

    Raises:
        ValueError: a future is given twice, or ``num_returns`` is not between 1 and their number.
        RuntimeError: called on the thread that brings the answers.
    """
    futures = _checked(futures)
    if len(set(futures)) < len(futures):
        raise ValueError("a future is given twice")
    if not 1 <= num_returns <= len(futures):
        raise ValueError(f"num_returns must be between 1 and {len(futures)}, the number of futures, not {num_returns}")
    waiting = [one for one in futures if not one.done()]
    if any(threading.get_ident() == one._dispatcher.thread for one in waiting):
        raise RuntimeError("this would block the thread that brings the answers; await the futures instead")
    done_count = threading.Semaphore(len(futures) - len(waiting))
    for one in waiting:
        one._call.watch(done_count.release)
    give_up_at = None if timeout is None else time.monotonic() + timeout
    for _ in range(num_returns):
        if not done_count.acquire(timeout=None if give_up_at is None else max(0.0, give_up_at - time.monotonic())):
            break
    for one in waiting:
        one._call.forget(done_count.release)
    done = [one for one in futures if one.done()][:num_returns]
    return done, [one for one in futures if one not in done]


def _checked(futures: Sequence[ServeFuture[T]]) -> Sequence[ServeFuture[T]]:
    for one in futures:
        if not isinstance(one, ServeFuture):
            hint = "; await it first" if isinstance(one, Sending) else ""
            raise TypeError(f"expected a ServeFuture or a list of them, not {type(one).__name__}{hint}")
    return futures


def _run_callback(callback: Callable[[ServeFuture[T]], object], future: ServeFuture[T]) -> None:
    try:
        callback(future)
    except Exception:  # user code must not end the loop that brings the answers
        log.exception("a callback of %r raised", future)


def _wake_elsewhere(loop: asyncio.AbstractEventLoop, waiter: asyncio.Future[None]) -> None:
    try:
        loop.call_soon_threadsafe(wake, waiter)
    except RuntimeError:
        pass  # the loop was closed while its task waited


def _iterate(dispatcher: Dispatcher, stream: ReplyStream) -> Generator[Any, None, None]:
    ended = object()

    async def step() -> Any:
        try:
            return await stream.__anext__()
        except StopAsyncIteration:
            return ended

    try:
        while True:
            try:
                chunk = dispatcher.run(step())
            except StreamBroken as broken:
                error = _stream_error(broken)
                raise error from error.__cause__
            if chunk is ended:
                return
            yield loads(chunk)
    finally:
        _close(dispatcher, stream)


async def _iterate_async(dispatcher: Dispatcher, stream: ReplyStream) -> AsyncGenerator[Any, None]:
    async def step() -> tuple[bool, Body]:
        try:
            return True, await stream.__anext__()
        except StopAsyncIteration:
            return False, b""

    here = asyncio.get_running_loop() is dispatcher.loop
    try:
        while True:
            try:
                more, chunk = await (
                    step() if here else asyncio.wrap_future(asyncio.run_coroutine_threadsafe(step(), dispatcher.loop))
                )
            except StreamBroken as broken:
                error = _stream_error(broken)
                raise error from error.__cause__
            if not more:
                return
            yield loads(chunk)
    finally:
        _close(dispatcher, stream)


def _close(dispatcher: Dispatcher, stream: ReplyStream) -> None:
    try:
        dispatcher.loop.call_soon_threadsafe(stream.close)  # no effect on a stream that has ended
    except RuntimeError:
        pass  # the loop was closed, and the connection with it


def _stream_error(broken: StreamBroken) -> BaseException:
    if broken.failure is None:
        return ServeException(str(broken))
    return failure_to_exception(broken.failure, broken.pickled, trusted=True)
