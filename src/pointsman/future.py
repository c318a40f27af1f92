"""What a handle call gives: its answer, some time, as a value or as a stream."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from typing import Any

from pointsman.exceptions import ServeException
from pointsman.routing.call import Call, Reply, ReplyStream, StreamBroken
from pointsman.routing.failures import failure_to_exception
from pointsman.session import Session


class ServeFuture:
    """The answer of a handle call, some time."""

    def __init__(
        self, session: Session, call: Call, future: concurrent.futures.Future[Reply], *, blocks_loop: bool = True
    ) -> None:
        self._session = session
        self._call = call
        self._future = future
        self._blocks_loop = blocks_loop

    def result(self, timeout: float | None = None) -> Any:
        """The value, an iterator when the backend streams.

        Args:
            timeout: seconds to wait; the call goes on when they have passed. None waits until the call's deadline.

        Raises:
            TimeoutError: ``timeout`` passed.
            RuntimeError: the future of an async handle, asked on a running event loop's thread before the answer is
                there; await it instead.
            Exception: what user code raised, with the remote traceback as its cause; or a ServeException of ours.
        """
        if not self._blocks_loop and not self._future.done() and _running_loop() is not None:
            raise RuntimeError("result() would block the running event loop; use 'await future' instead")
        try:
            reply = self._future.result(timeout)
        except concurrent.futures.CancelledError:
            raise ServeException("the call was cancelled") from None
        except concurrent.futures.TimeoutError:
            if timeout is None or self._future.done():
                raise  # user code's own, or the deadline's
            raise TimeoutError(f"no answer within {timeout:g} s; the call goes on") from None
        if reply.stream is not None:
            return _iterate(self._session, reply.stream)
        return pickle.loads(reply.body)

    def cancel(self) -> bool:
        """Give the call up: a queued one is removed, a running async one cancelled, the result of a running sync one
        dropped. False when it is over already."""
        if self._future.done():
            return False
        self._session.cancel(self._call)
        return True

    def done(self) -> bool:
        """Whether the answer is there, or will never be."""
        return self._future.done()

    def __await__(self) -> Any:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        try:
            # Shielded, or cancelling the awaiting task would mark the future as cancelled before we could tell why.
            reply = await asyncio.shield(asyncio.wrap_future(self._future))
        except asyncio.CancelledError:
            if self._future.cancelled():
                raise ServeException("the call was cancelled") from None
            self._session.cancel(self._call)
            raise
        if reply.stream is not None:
            return _iterate_async(self._session, reply.stream)
        return pickle.loads(reply.body)


class ServeStream(ServeFuture):
    """The answer of a call that streams, made by ``handle.options(stream=True)``: iterate it."""

    def __iter__(self) -> Iterator[Any]:
        value = self.result()
        if not isinstance(value, Iterator):
            raise TypeError(f"the backend answered with a {type(value).__name__} and not with a stream")
        return value

    async def __aiter__(self) -> AsyncIterator[Any]:
        value = await self
        if not isinstance(value, AsyncIterator):
            raise TypeError(f"the backend answered with a {type(value).__name__} and not with a stream")
        async for chunk in value:
            yield chunk


class Sending(Coroutine[Any, Any, ServeFuture]):
    """A call of an async handle on its way: a coroutine that gives the future; with ``stream=True`` it can also be
    iterated at once, ``async for chunk in handle.remote()``."""

    def __init__(self, coroutine: Coroutine[Any, Any, ServeFuture]) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Generator[Any, None, ServeFuture]:
        return self._coroutine.__await__()

    def send(self, value: Any, /) -> Any:
        return self._coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    async def __aiter__(self) -> AsyncIterator[Any]:
        future = await self._coroutine
        if not isinstance(future, ServeStream):
            raise TypeError("only calls of handle.options(stream=True) can be iterated")
        async for chunk in future:
            yield chunk


def get(future: ServeFuture | list[ServeFuture], timeout: float | None = None) -> Any:
    """The value of a future, or the list of values of a list of futures, in order.

    Args:
        timeout: seconds to wait for each; None waits until the calls' deadlines.

    Raises:
        TimeoutError: ``timeout`` passed.
        Exception: what user code raised; the first failure of a list.
    """
    if isinstance(future, ServeFuture):
        return future.result(timeout)
    return [item.result(timeout) for item in future]


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _iterate(session: Session, stream: ReplyStream) -> Iterator[Any]:
    """The values of a streamed answer, in a thread without a loop."""
    ended = object()

    async def step() -> Any:
        try:
            return await stream.__anext__()
        except StopAsyncIteration:
            return ended

    try:
        while True:
            try:
                chunk = session.run(step())
            except StreamBroken as broken:
                error = _stream_error(broken)
                raise error from error.__cause__
            if chunk is ended:
                return
            yield pickle.loads(chunk)
    finally:
        if not session.closed:
            session.loop.call_soon_threadsafe(stream.close)


async def _iterate_async(session: Session, stream: ReplyStream) -> AsyncIterator[Any]:
    async def step() -> tuple[bool, bytes]:
        try:
            return True, await stream.__anext__()
        except StopAsyncIteration:
            return False, b""

    try:
        while True:
            try:
                more, chunk = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(step(), session.loop))
            except StreamBroken as broken:
                error = _stream_error(broken)
                raise error from error.__cause__
            if not more:
                return
            yield pickle.loads(chunk)
    finally:
        if not session.closed:
            session.loop.call_soon_threadsafe(stream.close)


def _stream_error(broken: StreamBroken) -> BaseException:
    if broken.failure is None:
        return ServeException(str(broken))
    return failure_to_exception(broken.failure, broken.pickled, trusted=True)
