"""What user code receives, and the batch marker.

A ``def`` callable gets a :class:`Request`, whose methods return values; an ``async def`` callable gets Starlette's own
``Request`` (through a handle: a subclass of it, because a handle carries Python objects). Starlette is imported only
when something of it is asked for: a sync backend that reads bytes never loads it.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar, overload
from urllib.parse import quote, unquote

from pointsman.exceptions import ServeException

if TYPE_CHECKING:
    from starlette.datastructures import URL, FormData, Headers, QueryParams
    from starlette.requests import Request as StarletteRequest

C = TypeVar("C")

BATCH_MARKER = "__pointsman_accepts_batch__"
BUCKET_MARKER = "__pointsman_buckets_by__"


@overload
def accept_batch(function: C) -> C: ...


@overload
def accept_batch(*, bucket_by: Callable[[Any], Hashable]) -> Callable[[C], C]: ...


def accept_batch(
    function: C | None = None, *, bucket_by: Callable[[Any], Hashable] | None = None
) -> C | Callable[[C], C]:
    """Mark a function or method as taking a list of requests and returning as many answers.

    On a function, or on ``__call__``, it makes the whole backend batching; on another method only that method. How
    many requests come at once is set by ``max_batch_size`` and ``batch_wait_timeout`` of the backend's config. An
    exception object among the answers fails its own request only.

    Args:
        bucket_by: a quick function of one :class:`Request`, such as ``lambda request: len(request.body()) // 1000``;
            only requests for which it gives the same value (str, number, bytes, None, or a tuple of these) share a
            batch. It runs when a request arrives, on the loop of the replica; what it raises fails that request.

    On a class it is ignored, with a warning: mark its ``__call__`` instead.

    Raises:
        TypeError: used on what cannot be called.
    """
    if function is None:
        return lambda marked: _mark(marked, bucket_by)
    return _mark(function, bucket_by)


def _mark(function: C, bucket_by: Callable[[Any], Hashable] | None) -> C:
    if isinstance(function, type):
        text = f"accept_batch on a class is ignored; put it on {function.__name__}.__call__"
        warnings.warn(text, UserWarning, stacklevel=3)
        return function
    # What a class gives out is the function within: the marker would be lost with its shell.
    marked = function.__func__ if isinstance(function, (staticmethod, classmethod)) else function
    if not callable(marked):
        raise TypeError(f"accept_batch marks functions and methods, not {function!r}")
    setattr(marked, BATCH_MARKER, True)
    setattr(marked, BUCKET_MARKER, bucket_by)
    return function


def is_marked(function: Callable[..., Any] | None) -> bool:
    return getattr(function, BATCH_MARKER, False) is True


def bucket_of(function: Callable[..., Any]) -> Callable[[Any], Hashable] | None:
    """The ``bucket_by`` that a batching function was marked with."""
    bucket_by: Callable[[Any], Hashable] | None = getattr(function, BUCKET_MARKER, None)
    return bucket_by


class KeywordParams(dict[str, Any]):
    """Keyword arguments of a handle call, in the place of HTTP's query parameters; values keep their type."""

    def getlist(self, key: str) -> list[Any]:
        """The value as a list of one, or an empty list."""
        return [self[key]] if key in self else []


class Incoming:
    """A call as it came over the wire, before user code sees it as one kind of request or the other.

    ``data`` holds bytes for HTTP and any Python object for a handle call; ``kwargs`` is None for HTTP.
    """

    __slots__ = (
        "client", "data", "endpoint", "headers", "http_method", "kwargs", "path", "path_params", "query", "request_id",
    )  # fmt: skip

    def __init__(
        self,
        *,
        endpoint: str,
        http_method: str,
        path: bytes,
        query: bytes,
        headers: list[tuple[bytes, bytes]],
        path_params: dict[str, str],
        client: tuple[str, int] | None,
        request_id: str,
        data: Any,
        kwargs: dict[str, Any] | None,
    ) -> None:
        self.endpoint = endpoint
        self.http_method = http_method
        self.path = path
        self.query = query
        self.headers = headers
        self.path_params = path_params
        self.client = client
        self.request_id = request_id
        self.data = data
        self.kwargs = kwargs

    def scope(self) -> dict[str, Any]:
        """The ASGI scope of this call."""
        raw_path = self.path or f"/{quote(self.endpoint)}".encode()
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": self.http_method,
            "scheme": "http" if self.kwargs is None else "serve",
            "path": unquote(raw_path.decode("latin-1")) if b"%" in raw_path else raw_path.decode("latin-1"),
            "raw_path": raw_path,
            "root_path": "",
            "query_string": self.query,
            "headers": self.headers,
            "client": self.client,
            "server": None,
            "path_params": self.path_params,
        }

    def url(self) -> URL:
        from starlette.datastructures import URL

        if self.kwargs is not None:
            return URL(f"serve:///{quote(self.endpoint, safe='')}")
        return URL(scope=self.scope())

    def object_as_json(self) -> Any:
        """What ``json()`` gives for a handle call."""
        data = self.data
        if isinstance(data, (bytes, bytearray)):
            return json.loads(data)
        if data is None or isinstance(data, (dict, list, str, int, float, bool)):
            return data
        raise ServeException(f"json() cannot give a {type(data).__name__}; use body() for the object itself")

    def object_as_form(self) -> dict[str, Any]:
        """What ``form()`` gives for a handle call."""
        if isinstance(self.data, dict):
            return self.data
        raise ServeException(f"form() needs a dict, and this call carries a {type(self.data).__name__}")


class Request:
    """What a ``def`` callable receives. Every method returns its value at once.

    Attributes:
        method: HTTP method in upper case; for handle calls the ``http_method`` option.
        path_params: values of the route's template, decoded.
    """

    __slots__ = ("_headers", "_incoming", "method", "path_params")

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._headers: Headers | None = None
        self.method = incoming.http_method
        self.path_params = incoming.path_params

    @property
    def headers(self) -> Headers:
        """Headers, looked up without regard to case."""
        if self._headers is None:
            from starlette.datastructures import Headers

            self._headers = Headers(raw=self._incoming.headers)
        return self._headers

    @property
    def query_params(self) -> QueryParams | KeywordParams:
        """The query string's parameters, or the keyword arguments of a handle call."""
        if self._incoming.kwargs is not None:
            return KeywordParams(self._incoming.kwargs)
        from starlette.datastructures import QueryParams

        return QueryParams(self._incoming.query.decode("latin-1"))

    @property
    def url(self) -> URL:
        """The full URL; ``serve:///<endpoint>`` for a handle call."""
        return self._incoming.url()

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port of the HTTP client, None for handle calls."""
        return self._incoming.client

    def body(self) -> Any:
        """The body: bytes over HTTP, the very object passed through a handle."""
        return self._incoming.data

    def json(self) -> Any:
        """The body, parsed as JSON.

        Raises:
            json.JSONDecodeError: the body is not JSON. The caller's fault.
            ServeException: a handle call that carries an object without a JSON form.
        """
        if self._incoming.kwargs is not None:
            return self._incoming.object_as_json()
        return json.loads(self._incoming.data)

    def form(self) -> FormData | dict[str, Any]:
        """The body, parsed as an urlencoded or multipart form; a handle call's dict as it is."""
        if self._incoming.kwargs is not None:
            return self._incoming.object_as_form()
        import asyncio

        async def parse() -> FormData:
            return await async_request(self._incoming).form()

        return asyncio.run(parse())

    def __repr__(self) -> str:
        return f"<Request {self.method} {self._incoming.endpoint!r}>"


def async_request(incoming: Incoming) -> StarletteRequest:
    """The Starlette request for an ``async def`` callable."""
    if incoming.kwargs is not None:
        handle_request: StarletteRequest = _handle_request_class()(incoming)
        return handle_request
    from starlette.requests import Request as StarletteRequest

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": incoming.data, "more_body": False}

    request = StarletteRequest(incoming.scope(), receive)
    vars(request)["_incoming"] = incoming  # for a handle that it may be passed to
    return request


def passed_on(value: Any) -> Any:
    """What a handle sends for its first argument: a request that a backend was given travels as it came.

    Raises:
        TypeError: a Starlette request that somebody else made.
    """
    if isinstance(value, Request):
        return value._incoming
    module = sys.modules.get("starlette.requests")
    if module is None or not isinstance(value, module.HTTPConnection):
        return value
    incoming = vars(value).get("_incoming")
    if not isinstance(incoming, Incoming):
        raise TypeError("only a request that a backend was given can be passed on; pass its body instead")
    return incoming


_handle_class: Any = None


def _handle_request_class() -> Any:
    """Made on first use, so that importing this module does not import Starlette."""
    global _handle_class
    if _handle_class is not None:
        return _handle_class
    from starlette.requests import Request as StarletteRequest

    class HandleRequest(StarletteRequest):
        """A handle call as an ``async def`` callable sees it: Starlette's interface, Python objects inside.

        Starlette's own state is made when something of it is first asked for: most calls want the body only.
        """

        def __init__(self, incoming: Incoming) -> None:
            self._incoming = incoming

        def __getattr__(self, name: str) -> Any:
            if "scope" in vars(self) or name.startswith("__"):
                raise AttributeError(name)
            super().__init__(self._incoming.scope())
            return getattr(self, name)

        @property
        def query_params(self) -> Any:
            return KeywordParams(self._incoming.kwargs or {})

        @property
        def url(self) -> URL:
            return self._incoming.url()

        async def body(self) -> Any:
            return self._incoming.data

        async def json(self) -> Any:
            return self._incoming.object_as_json()

        def form(self, **_: Any) -> Any:
            async def value() -> Any:
                return self._incoming.object_as_form()

            return value()

    _handle_class = HandleRequest
    return HandleRequest
