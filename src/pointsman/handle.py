"""Handles: Python objects that call an endpoint, in a driver or in a replica."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

from pointsman.arguments import check_timeout
from pointsman.calling.dispatch import Dispatcher, HandleCall, wake
from pointsman.calling.future import Sending, ServeFuture
from pointsman.calling.session import Credentials, Session, credentials_here, existing_session, session_for
from pointsman.context import CallScope, call_scope
from pointsman.incoming import CODEC_OBJECT, RequestHead
from pointsman.policy.multiplexing import check_model_id
from pointsman.policy.shardkey import check_key
from pointsman.request import passed_on
from pointsman.routing.call import SAFE_METHODS
from pointsman.telemetry.tracing import TRACE_HEADERS, current_headers
from pointsman.wire.pickling import dumps_arguments

H = TypeVar("H", bound="_Handle")


class _Unchanged:
    def __repr__(self) -> str:
        return "<unchanged>"


_UNCHANGED: Any = _Unchanged()
_NEVER_A_REQUEST = frozenset((type(None), bytes, str, int, float, bool, dict, list, tuple))


class CallOptions(NamedTuple):
    """The values set by ``options``. None is a value, not "unset".

    Attributes:
        method_name: method of the backend's class; None for ``__call__``.
        shard_key: calls with the same key go to the same backend; None for none.
        http_method: what the request's ``method`` says; None for GET.
        http_headers: headers of the request.
        timeout_s: deadline of a call in seconds; None for the endpoint's.
        stream: whether calls are iterated.
        idempotent: whether a call that had started may be repeated when its replica dies.
        queue_full: ``"wait"`` while the queue is full, or ``"raise"`` BackpressureError at once.
        multiplexed_model_id: id of the model that calls want; None for none.
    """

    method_name: str | None = None
    shard_key: str | None = None
    http_method: str | None = None
    http_headers: Mapping[str, str] | None = None
    timeout_s: float | None = None
    stream: bool = False
    idempotent: bool = False
    queue_full: str = "wait"
    multiplexed_model_id: str | None = None

    def checked(self) -> CallOptions:
        """These options after validation, with a copy of the caller's headers.

        Raises:
            TypeError, ValueError: an option has an invalid value.
        """
        for name in ("method_name", "http_method"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name} must be a str or None, not {value!r}")
        for name in ("stream", "idempotent"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, not {getattr(self, name)!r}")
        if self.shard_key is not None:
            check_key(self.shard_key)
        if self.multiplexed_model_id is not None:
            check_model_id(self.multiplexed_model_id)
        check_timeout(self.timeout_s, "timeout_s")
        if self.queue_full not in ("wait", "raise"):
            raise ValueError(f"queue_full must be 'wait' or 'raise', not {self.queue_full!r}")
        if self.http_headers is None:
            return self
        if not isinstance(self.http_headers, Mapping):
            raise TypeError(f"http_headers must be a dict of str to str or None, not {self.http_headers!r}")
        for item in self.http_headers.items():
            if not all(isinstance(part, str) for part in item):
                raise TypeError(f"http_headers must be a dict of str to str, and holds {item!r}")
        return self._replace(http_headers=dict(self.http_headers))

    def wire_headers(self) -> list[tuple[bytes, bytes]]:
        """The request's headers as they are sent."""
        ours = {"x-serve-shard-key": self.shard_key, "x-serve-call-method": self.method_name}
        headers = {name.lower(): value for name, value in (self.http_headers or {}).items()}
        headers.update((name, value) for name, value in ours.items() if value is not None)
        return [(name.encode(), value.encode()) for name, value in headers.items()]


class _Handle:
    """Base of both kinds of handle: an endpoint and options. Immutable; picklable."""

    _endpoint: str
    _credentials: Credentials
    _options: CallOptions
    _missing_ok: bool
    _headers: list[tuple[bytes, bytes]]
    _http_method: str
    _idempotent: bool

    def __init__(
        self,
        endpoint: str,
        credentials: Credentials,
        options: CallOptions | None = None,
        *,
        missing_ok: bool = False,
    ) -> None:
        options = options or CallOptions()
        headers = options.wire_headers()
        explicit_safe = options.http_method is not None and options.http_method.upper() in SAFE_METHODS
        vars(self).update(
            _endpoint=endpoint,
            _credentials=credentials,
            _options=options,
            _missing_ok=missing_ok,
            _headers=headers,
            _http_method=(options.http_method or "GET").upper(),
            _idempotent=options.idempotent or explicit_safe or any(name == b"idempotency-key" for name, _ in headers),
        )

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"a handle cannot be changed ({name} was set); options() makes another one")

    if not TYPE_CHECKING:  # or else a checker would take any name for an attribute

        def __getattr__(self, name: str) -> NoReturn:
            how = "" if name.startswith("_") else f"; a method is called by options(method_name={name!r}).remote(...)"
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{how}")

    def options(
        self: H,
        *,
        method_name: str | None = _UNCHANGED,
        shard_key: str | None = _UNCHANGED,
        http_method: str | None = _UNCHANGED,
        http_headers: Mapping[str, str] | None = _UNCHANGED,
        timeout_s: float | None = _UNCHANGED,
        stream: bool = _UNCHANGED,
        idempotent: bool = _UNCHANGED,
        queue_full: str = _UNCHANGED,
        multiplexed_model_id: str | None = _UNCHANGED,
    ) -> H:
        """A handle like this one with some options changed; those not given are inherited.

        Args:
            method_name: method of the backend's class; None for ``__call__``.
            shard_key: calls with the same key go to the same backend, until the traffic policy changes; at most 256
                bytes of UTF-8. None for none.
            http_method: what the request's ``method`` says; None for GET.
            http_headers: headers of the request.
            timeout_s: deadline of a call in seconds; None for the endpoint's, or else the instance's. A call that user
                code makes for another one has at most what is left of that one's.
            stream: calls are iterated: ``for chunk in handle.remote()``, or ``async for`` with an async handle.
            idempotent: whether a call that had started may be repeated when its replica dies.
            queue_full: ``"wait"`` while the queue is full, or ``"raise"`` BackpressureError at once.
            multiplexed_model_id: id of the model that calls want, where the backend loads models by id, as
                ``serve.get_multiplexed_model_id()`` gives it there: 1 to 256 bytes of UTF-8. None for none. Calls that
                user code makes for another one do not inherit its id.

        Raises:
            TypeError, ValueError: an option has a value that it cannot have.
        """
        given: dict[str, Any] = {
            "method_name": method_name,
            "shard_key": shard_key,
            "http_method": http_method,
            "http_headers": http_headers,
            "timeout_s": timeout_s,
            "stream": stream,
            "idempotent": idempotent,
            "queue_full": queue_full,
            "multiplexed_model_id": multiplexed_model_id,
        }
        given = {name: value for name, value in given.items() if value is not _UNCHANGED}
        options = self._options._replace(**given).checked()
        return type(self)(self._endpoint, self._credentials, options, missing_ok=self._missing_ok)

    def __repr__(self) -> str:
        changed = [f"{name}={value!r}" for name, value in self._options._asdict().items() if value not in (None, False)]
        return f"{type(self).__name__}({', '.join([repr(self._endpoint), *changed])})"

    def __reduce__(self) -> Any:
        # Without the key: the process that unpickles a handle uses its own credentials.
        path = self._credentials.control_path
        return (_rebuild, (type(self), self._endpoint, path, self._options, self._missing_ok))

    def _call(self, session: Session, dispatcher: Dispatcher, data: Any, kwargs: dict[str, Any]) -> ServeFuture[Any]:
        """Make a call, to be submitted to its dispatcher."""
        options, scope = self._options, call_scope.get()
        if type(data) not in _NEVER_A_REQUEST:
            data = passed_on(data)
        request = RequestHead(
            self._endpoint,
            CODEC_OBJECT,
            options.method_name or "",
            self._http_method,
            headers=_with_trace(self._headers, scope),
            request_id=scope.request_id if scope is not None else "",
            model_id=options.multiplexed_model_id or "",
        )
        call = HandleCall(
            request,
            dumps_arguments(data, kwargs),
            deadline=dispatcher.now() + self._time_left(session, scope),
            shard_key=options.shard_key,
            idempotent=self._idempotent,
            waits_if_full=options.queue_full == "wait",
            home=dispatcher,
            scope=scope,
        )
        return ServeFuture(dispatcher, call, iterable=options.stream)

    def _time_left(self, session: Session, scope: CallScope | None) -> float:
        """Seconds until the call's deadline, which is at most that of the request it is made for (decision 0015)."""
        timeout_s = self._options.timeout_s
        if timeout_s is None:
            endpoint = session.table().endpoints.get(self._endpoint)
            timeout_s = endpoint.request_timeout_s if endpoint is not None else None
        if timeout_s is None:
            timeout_s = self._credentials.request_timeout_s
        return timeout_s if scope is None else min(timeout_s, scope.deadline - time.monotonic())


def _with_trace(headers: list[tuple[bytes, bytes]], scope: CallScope | None) -> list[tuple[bytes, bytes]]:
    """A handle's headers, with trace headers of the current span, or else of the request the call is made for."""
    found = current_headers()
    if not found and scope is not None and scope.headers:
        found = [header for header in scope.headers if header[0] in TRACE_HEADERS]
    if not found:
        return headers
    given = {name for name, _ in headers}
    return [*headers, *(header for header in found if header[0] not in given)]


class ServeHandle(_Handle):
    """Calls an endpoint from any thread. Made by ``client.get_handle(name)``."""

    def remote(self, data: Any = None, /, **kwargs: Any) -> ServeFuture[Any]:
        """Send a call.

        Args:
            data: the request's body; any picklable object. A ServeFuture is resolved first.
            kwargs: the request's ``query_params``.

        Returns:
            A future. The calling thread waits only while the endpoint's queue is full.

        Raises:
            TypeError, ValueError: the arguments cannot be pickled, or are too large.
            ServeException: the instance has ended.
            Exception: what a future among the arguments has failed with.
        """
        session = session_for(self._credentials)
        dispatcher = session.thread_dispatcher()
        if isinstance(data, ServeFuture):
            data = data.result()
        kwargs = {name: value.result() if isinstance(value, ServeFuture) else value for name, value in kwargs.items()}
        future = self._call(session, dispatcher, data, kwargs)
        call = future._call
        if call.waits_if_full and dispatcher.is_crowded(self._endpoint) and threading.get_ident() != dispatcher.thread:
            admitted = threading.Event()
            call.on_admitted = admitted.set
            call.watch(admitted.set)
            dispatcher.submit(call, missing_ok=self._missing_ok)
            admitted.wait()
        else:
            dispatcher.submit(call, missing_ok=self._missing_ok)
        return future


class AsyncServeHandle(_Handle):
    """Calls an endpoint from a running event loop, any one; calls stay on that loop. Made by
    ``client.get_handle(name, sync=False)``."""

    def remote(self, data: Any = None, /, **kwargs: Any) -> Sending:
        """Send a call; ``await`` it for a future, and that for the value. The first await lasts only while the
        endpoint's queue is full.

        Args:
            data: the request's body; any picklable object. A future, or a call that was not awaited, is resolved first.
            kwargs: the request's ``query_params``.

        Returns:
            A call: ``await`` it to send it.

        Raises:
            TypeError, ValueError: the arguments cannot be pickled, or are too large.
            ServeException: the instance has ended.
            Exception: what a future among the arguments has failed with.
        """
        return Sending(self._remote, data, kwargs)

    def _remote(self, data: Any, kwargs: dict[str, Any]) -> Generator[Any, None, ServeFuture[Any]]:
        # hot: a generator instead of a coroutine, since nearly always there is nothing to await (see `Sending`).
        session = existing_session(self._credentials)
        if session is None:
            session = yield from asyncio.to_thread(session_for, self._credentials).__await__()
        dispatcher = session.loop_dispatcher()
        if dispatcher is None:
            dispatcher = yield from session.open_loop_dispatcher().__await__()
        if isinstance(data, (ServeFuture, Sending)):
            data = yield from _resolved(data).__await__()
        for name, value in kwargs.items():
            if isinstance(value, (ServeFuture, Sending)):
                kwargs[name] = yield from _resolved(value).__await__()
        future = self._call(session, dispatcher, data, kwargs)
        dispatcher.submit(future._call, missing_ok=self._missing_ok)
        if future._call.held_back:
            yield from _admitted(future, dispatcher.loop.create_future())
        return future


RayServeHandle = _Handle
"""As 1.x called handles of both kinds, for annotations and ``isinstance``."""
RayServeSyncHandle = ServeHandle
"""As 1.x called it."""


def _admitted(future: ServeFuture[Any], waiter: asyncio.Future[None]) -> Generator[Any, None, None]:
    """Wait until the call has entered the queue, or is over."""
    future._call.on_admitted = wake_waiter = partial(wake, waiter)
    future._call.watch(wake_waiter)
    try:
        yield from waiter
    except asyncio.CancelledError:
        future.cancel()
        raise


async def _resolved(value: ServeFuture[Any] | Sending) -> Any:
    return await (await value if isinstance(value, Sending) else value)


def _rebuild(kind: type[_Handle], endpoint: str, control_path: str, options: CallOptions, missing_ok: bool) -> _Handle:
    return kind(endpoint, credentials_here(control_path), options, missing_ok=missing_ok)
