"""Methods of user code that calls can name: what each takes, and how it is called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from pointsman.incoming import Incoming, RequestHead
from pointsman.replica.answers import Answer, encode_answer
from pointsman.request import Request, async_request
from pointsman.usercode.packing import DEFAULT_METHOD
from pointsman.usercode.signatures import Signature


class Method(NamedTuple):
    """A function or method of user code that calls can name.

    Attributes:
        wraps_async: it is a ``def`` around an ``async def``.
        bucket_by: of a batching method: requests share a batch only if this returns the same value for them.
        signature: of a typed method.
        encode: makes the answer of what it has returned.
        uses_models: whether there are loaders whose models it may use.
    """

    name: str
    function: Callable[..., Any]
    is_async: bool
    batches: bool
    takes_request: bool
    wraps_async: bool = False
    bucket_by: Callable[[Any], Hashable] | None = None
    signature: Signature | None = None
    encode: Callable[[Any, RequestHead], Answer] = encode_answer
    uses_models: bool = False

    def request(self, incoming: Incoming) -> Any:
        """The request object that this method takes."""
        if self.is_async:
            return async_request(incoming)
        return WrappedRequest(incoming) if self.wraps_async else Request(incoming)

    def bucket(self, request: Request) -> Hashable:
        """The result of ``bucket_by`` for a request.

        Raises:
            TypeError: it is not of a plain type; hashing and comparing others may run user code.
            Exception: whatever user code raises.
        """
        assert self.bucket_by is not None
        value = self.bucket_by(request)
        if not _is_plain(value):
            kind = type(value).__name__
            raise TypeError(f"bucket_by must give a str, int, float, bool, bytes, None or tuple of these, not {kind}")
        return value

    def call(self, request: Any) -> Any:
        """Call user code with a request, or with a list of them if it batches."""
        return self.function(request) if self.takes_request else self.function()


NO_METHOD = Method(DEFAULT_METHOD, lambda: None, is_async=False, batches=False, takes_request=False)
"""Placeholder for the missing ``__call__`` of a class; never called."""


def _is_plain(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return type(value) in (str, int, float, bool, bytes, type(None))


class WrappedRequest(Request):
    """The request of a ``def`` that wraps an ``async def``, such as a decorator.

    ``body``, ``json``, ``form``, ``close`` and ``stream`` return values where no event loop runs, in the wrapper, and
    awaitables (``stream``: an async iterator) where one does, in the wrapped function. Both share ``scope`` and
    ``state``.
    """

    __slots__ = ()  # a class attribute below with the name of a slot of `Request` would hide the slot

    def body(self) -> Any:
        return self._starlette().body() if _loop_runs() else super().body()

    def json(self) -> Any:
        return self._starlette().json() if _loop_runs() else super().json()

    def form(self, *args: Any, **kwargs: Any) -> Any:
        return self._starlette().form(*args, **kwargs) if _loop_runs() else super().form(*args, **kwargs)

    def stream(self) -> Any:
        return self._starlette().stream() if _loop_runs() else super().stream()

    def close(self) -> Any:
        super().close()
        return self._starlette().close() if _loop_runs() else None


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
