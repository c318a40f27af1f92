"""Handles: Python objects that call an endpoint, from the driver or from inside a replica."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import cloudpickle

from pointsman.context import CallScope, call_scope
from pointsman.deadline import check_timeout
from pointsman.future import Sending, ServeFuture, ServeStream
from pointsman.policy.shardkey import check_key
from pointsman.routing.call import SAFE_METHODS, Call, Reply
from pointsman.session import Credentials, Session, credentials_here, session_for
from pointsman.wire.messages import CODEC_OBJECT


class _Unset:
    def __repr__(self) -> str:
        return "<not given>"


_UNSET: Any = _Unset()


class CallOptions(NamedTuple):
    """What ``options`` sets; None is a real value."""

    method_name: str | None = None
    shard_key: str | None = None
    http_method: str | None = None
    http_headers: Mapping[str, str] | None = None
    timeout_s: float | None = None
    stream: bool = False
    idempotent: bool = False
    queue_full: str = "wait"


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
        shard_key: str | None = _UNSET,
        http_method: str | None = _UNSET,
        http_headers: Mapping[str, str] | None = _UNSET,
        timeout_s: float | None = _UNSET,
        stream: bool = _UNSET,
        idempotent: bool = _UNSET,
        queue_full: str = _UNSET,
    ) -> Any:
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
            queue_full: ``"wait"`` for room while the queue is full, or ``"raise"`` BackpressureError at once.

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
        }
        given = {name: value for name, value in given.items() if value is not _UNSET}
        options = self._options._replace(**given)
        for name in ("method_name", "http_method"):
            value = getattr(options, name)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name} must be a str or None, not {value!r}")
        if options.shard_key is not None:
            check_key(options.shard_key)
        check_timeout(options.timeout_s, "timeout_s")
        if options.queue_full not in ("wait", "raise"):
            raise ValueError(f"queue_full must be 'wait' or 'raise', not {options.queue_full!r}")
        return type(self)(self._endpoint, self._credentials, options, missing_ok=self._missing_ok)

    def __repr__(self) -> str:
        changed = [f"{name}={value!r}" for name, value in self._options._asdict().items() if value not in (None, False)]
        return f"{type(self).__name__}({', '.join([repr(self._endpoint), *changed])})"

    def __reduce__(self) -> Any:
        # Never the key: whoever unpickles it uses the credentials of its own process.
        path = self._credentials.control_path
        return (_rebuild, (type(self), self._endpoint, path, self._options, self._missing_ok))

    def _send(self, session: Session, data: Any, kwargs: dict[str, Any]) -> tuple[ServeFuture, Call]:
        options, scope = self._options, call_scope.get()
        future: concurrent.futures.Future[Reply] = concurrent.futures.Future()
        headers = [(name.lower().encode(), value.encode()) for name, value in (options.http_headers or {}).items()]
        if options.shard_key is not None:
            headers = [header for header in headers if header[0] != b"x-serve-shard-key"]
            headers.append((b"x-serve-shard-key", options.shard_key.encode()))
        explicit_safe = options.http_method is not None and options.http_method.upper() in SAFE_METHODS
        call = Call(
            endpoint=self._endpoint,
            codec=CODEC_OBJECT,
            method_name=options.method_name or "",
            http_method=(options.http_method or "GET").upper(),
            headers=headers,
            body=dumps_arguments(data, kwargs),
            deadline=session.loop.time() + self._time_left(session, scope),
            request_id=scope.request_id if scope is not None else "",
            future=future,
            shard_key=options.shard_key,
            idempotent=options.idempotent or explicit_safe or any(name == b"idempotency-key" for name, _ in headers),
            waits_for_room=options.queue_full == "wait",
        )
        kind = ServeStream if options.stream else ServeFuture
        return kind(session, call, future, blocks_loop=isinstance(self, ServeHandle)), call

    def _time_left(self, session: Session, scope: CallScope | None) -> float:
        """Seconds until the call's deadline: its own, and never more than that of the call it is made for."""
        timeout_s = self._options.timeout_s
        if timeout_s is None:
            endpoint = session.endpoint(self._endpoint)
            timeout_s = endpoint.request_timeout_s if endpoint is not None else None
        if timeout_s is None:
            timeout_s = self._credentials.request_timeout_s
        return timeout_s if scope is None else min(timeout_s, scope.deadline - time.monotonic())


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

    def remote(self, data: Any = None, /, **kwargs: Any) -> Sending:
        """Send a call; ``await`` it for a future, and that for the value. Arguments as for :class:`ServeHandle`."""
        return Sending(self._remote(data, kwargs))

    async def _remote(self, data: Any, kwargs: dict[str, Any]) -> ServeFuture:
        session = await asyncio.to_thread(session_for, self._credentials)
        if isinstance(data, ServeFuture):
            data = await data
        kwargs = {name: await value if isinstance(value, ServeFuture) else value for name, value in kwargs.items()}
        future, call = self._send(session, data, kwargs)
        session.submit(call, missing_ok=self._missing_ok)
        return future


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
