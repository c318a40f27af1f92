"""Handles: Python objects that call an endpoint, from the driver or from inside a replica."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, NamedTuple

import cloudpickle

from pointsman.exceptions import ServeException
from pointsman.routing.call import SAFE_METHODS, Call, Reply, ReplyStream, StreamBroken
from pointsman.routing.failures import failure_to_exception
from pointsman.session import Credentials, Session, credentials_here, session_for
from pointsman.wire.messages import CODEC_OBJECT


class _Unset:
    def __repr__(self) -> str:
        return "<not given>"


_UNSET: Any = _Unset()


class CallOptions(NamedTuple):
    """What ``options`` sets; None is a real value."""

    method_name: str | None = None
    http_method: str | None = None
    http_headers: Mapping[str, str] | None = None
    idempotent: bool = False
    queue_full: str = "wait"


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


class _Handle:
    """What both kinds of handle share: where they lead, and their options. Immutable; picklable."""

    def __init__(
        self,
        endpoint: str,
        credentials: Credentials,
        options: CallOptions | None = None,
        *,
        missing_ok: bool = False,
    ) -> None:
        self._endpoint = endpoint
        self._credentials = credentials
        self._options = options or CallOptions()
        self._missing_ok = missing_ok

    def options(
        self,
        *,
        method_name: str | None = _UNSET,
        http_method: str | None = _UNSET,
        http_headers: Mapping[str, str] | None = _UNSET,
        idempotent: bool = _UNSET,
        queue_full: str = _UNSET,
    ) -> Any:
        """A handle like this one with some options changed; those not given are inherited.

        Args:
            method_name: method of the backend's class; None for ``__call__``.
            http_method: what the request's ``method`` says; None for GET.
            http_headers: headers of the request.
            idempotent: whether a call that had started may be repeated when its replica dies.
            queue_full: ``"wait"`` for room while the queue is full, or ``"raise"`` BackpressureError at once.

        Raises:
            TypeError, ValueError: an option has a value that it cannot have.
        """
        given: dict[str, Any] = {
            "method_name": method_name,
            "http_method": http_method,
            "http_headers": http_headers,
            "idempotent": idempotent,
            "queue_full": queue_full,
        }
        given = {name: value for name, value in given.items() if value is not _UNSET}
        options = self._options._replace(**given)
        for name in ("method_name", "http_method"):
            value = getattr(options, name)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name} must be a str or None, not {value!r}")
        if options.queue_full not in ("wait", "raise"):
            raise ValueError(f"queue_full must be 'wait' or 'raise', not {options.queue_full!r}")
        return type(self)(self._endpoint, self._credentials, options, missing_ok=self._missing_ok)

    def __repr__(self) -> str:
        changed = [f"{name}={value!r}" for name, value in self._options._asdict().items() if value]
        return f"{type(self).__name__}({', '.join([repr(self._endpoint), *changed])})"

    def __reduce__(self) -> Any:
        # Never the key: whoever unpickles it uses the credentials of its own process.
        path = self._credentials.control_path
        return (_rebuild, (type(self), self._endpoint, path, self._options, self._missing_ok))

    def _send(self, session: Session, data: Any, kwargs: dict[str, Any]) -> tuple[ServeFuture, Call]:
        options = self._options
        future: concurrent.futures.Future[Reply] = concurrent.futures.Future()
        headers = [(name.lower().encode(), value.encode()) for name, value in (options.http_headers or {}).items()]
        explicit_safe = options.http_method is not None and options.http_method.upper() in SAFE_METHODS
        call = Call(
            endpoint=self._endpoint,
            codec=CODEC_OBJECT,
            method_name=options.method_name or "",
            http_method=(options.http_method or "GET").upper(),
            headers=headers,
            body=dumps_arguments(data, kwargs),
            deadline=session.loop.time() + self._credentials.request_timeout_s,
            future=future,
            idempotent=options.idempotent or explicit_safe or any(name == b"idempotency-key" for name, _ in headers),
            waits_for_room=options.queue_full == "wait",
        )
        return ServeFuture(session, call, future, blocks_loop=isinstance(self, ServeHandle)), call


class ServeHandle(_Handle):
    """Calls an endpoint from any thread."""

    def remote(self, data: Any = None, /, **kwargs: Any) -> ServeFuture:
        """Send a call.

        Args:
            data: the request's body; any picklable object. A ServeFuture is resolved first.
            kwargs: the request's ``query_params``.

        Returns:
            A future. The calling thread waits only while the endpoint's queue is full.
        """
        session = session_for(self._credentials)
        if isinstance(data, ServeFuture):
            data = data.result()
        kwargs = {name: value.result() if isinstance(value, ServeFuture) else value for name, value in kwargs.items()}
        future, call = self._send(session, data, kwargs)
        if call.waits_for_room and session.is_crowded(self._endpoint):
            admitted = threading.Event()
            call.on_admitted = admitted.set
            future._future.add_done_callback(lambda _: admitted.set())
            session.submit(call, missing_ok=self._missing_ok)
            admitted.wait()
        else:
            session.submit(call, missing_ok=self._missing_ok)
        return future


class AsyncServeHandle(_Handle):
    """Calls an endpoint from a running event loop, any one."""

    async def remote(self, data: Any = None, /, **kwargs: Any) -> ServeFuture:
        """Send a call; await the future that comes back for its value. Arguments as for :class:`ServeHandle`."""
        session = await asyncio.to_thread(session_for, self._credentials)
        if isinstance(data, ServeFuture):
            data = await data
        kwargs = {name: await value if isinstance(value, ServeFuture) else value for name, value in kwargs.items()}
        future, call = self._send(session, data, kwargs)
        session.submit(call, missing_ok=self._missing_ok)
        return future


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


def dumps_arguments(data: Any, kwargs: dict[str, Any]) -> bytes:
    """Pickle a call's arguments; what is defined in ``__main__`` or a notebook cell travels by value.

    Raises:
        TypeError: they cannot be pickled.
    """
    try:
        packed = pickle.dumps((data, kwargs), protocol=5)
        if b"__main__" not in packed:
            return packed
    except Exception:  # noqa: BLE001 - lambdas, local classes: cloudpickle can, or says why not
        packed = b""
    try:
        return bytes(cloudpickle.dumps((data, kwargs), protocol=5))
    except Exception as error:
        raise TypeError(f"the call's arguments cannot be pickled: {error}") from error


def _rebuild(kind: type[_Handle], endpoint: str, control_path: str, options: CallOptions, missing_ok: bool) -> _Handle:
    return kind(endpoint, credentials_here(control_path), options, missing_ok=missing_ok)


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
                raise _stream_error(broken) from None
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
                raise _stream_error(broken) from None
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
