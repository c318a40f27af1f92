"""Requests inside our processes: the head, made once by an HTTP server or a handle, and the whole request in a replica,
from which both kinds of requests for user code are made; and requests that are made up for tests. Starlette is imported
only when something of it is asked for.
"""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Generator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, unquote

import msgspec

from pointsman.exceptions import ServeException

if TYPE_CHECKING:
    from starlette.datastructures import URL


CODEC_HTTP = 0
"""Body: bytes as HTTP carries them. The reply is a status, headers and bytes."""
CODEC_OBJECT = 1
"""Body: a pickled Python object, only ever between authenticated processes of one instance."""


class RequestHead(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A request without its body. Made once, held by the call, and packed and unpacked as a whole.

    Attributes:
        endpoint: name of the endpoint.
        codec: how the body is packed and how the answer is wanted, CODEC_HTTP or CODEC_OBJECT.
        method_name: the method of the user's class; empty for the default, ``__call__``.
        http_method: upper case.
        path: raw path as received, percent-encoded; empty through a handle.
        query: raw query string; empty through a handle.
        headers: names and values as received, latin-1 bytes, names in lower case. Must not be changed.
        path_params: decoded values of the route's template. Must not be changed.
        request_id: id of the request in logs and error bodies.
        client: address of the HTTP client, for user code.
        scheme: by which it has come, ``http`` or ``https``.
        model_id: of the model that the caller wants, for backends that load models by id; empty if it names none.
    """

    endpoint: str
    codec: int = CODEC_HTTP
    method_name: str = ""
    http_method: str = "GET"
    path: bytes = b""
    query: bytes = b""
    headers: list[tuple[bytes, bytes]] = []
    path_params: dict[str, str] = {}
    request_id: str = ""
    client: tuple[str, int] | None = None
    scheme: str = "http"
    model_id: str = ""


class KeywordParams(dict[str, Any]):
    """Keyword arguments of a handle call, in place of query parameters. Values keep their type."""

    def getlist(self, key: str) -> list[Any]:
        """The value as a list of one, or an empty list."""
        return [self[key]] if key in self else []


class Incoming:
    """A request in a replica, from which the request object for user code is made.

    Attributes:
        data: the body: bytes for HTTP, any Python object for a handle call.
        kwargs: keyword arguments of a handle call; None for HTTP.
        left: True once the caller does not wait for the answer any more.
    """

    __slots__ = ("data", "head", "kwargs", "left")

    def __init__(self, head: RequestHead, data: Any, kwargs: dict[str, Any] | None) -> None:
        self.head = head
        self.data = data
        self.kwargs = kwargs
        self.left = False

    def scope(self) -> dict[str, Any]:
        """The ASGI scope of this request."""
        head = self.head
        raw_path = head.path or f"/{quote(head.endpoint, safe='')}".encode()
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": head.http_method,
            "scheme": head.scheme if self.kwargs is None else "serve",
            "path": unquote(raw_path.decode("latin-1")) if b"%" in raw_path else raw_path.decode("latin-1"),
            "raw_path": raw_path,
            "root_path": "",
            "query_string": head.query,
            "headers": head.headers,
            "client": head.client,
            "server": None,
            "path_params": head.path_params,
        }

    def url(self) -> URL:
        from starlette.datastructures import URL

        if self.kwargs is not None:
            return URL(f"serve:///{quote(self.head.endpoint, safe='')}")
        return URL(scope=self.scope())

    def base_url(self) -> URL:
        """The base URL of a handle call, which has no host."""
        from starlette.datastructures import URL

        return URL("serve:///")

    def object_as_json(self) -> Any:
        """The result of ``json()`` for a handle call."""
        data = self.data
        if isinstance(data, (bytes, bytearray)):
            return json.loads(data)
        if data is None or isinstance(data, (dict, list, str, int, float, bool)):
            return data
        raise ServeException(f"json() cannot give a {type(data).__name__}; use body() for the object itself")

    def object_as_form(self) -> dict[str, Any]:
        """The result of ``form()`` for a handle call."""
        if isinstance(self.data, dict):
            return self.data
        raise ServeException(f"form() needs a dict, and this call carries a {type(self.data).__name__}")

    def object_as_bytes(self) -> bytes:
        """The bytes for ``stream()`` of a handle call."""
        if isinstance(self.data, (bytes, bytearray)):
            return bytes(self.data)
        kind = type(self.data).__name__
        raise ServeException(f"stream() needs bytes, and this call carries a {kind}; use body() for the object itself")


def made_up(
    body: bytes,
    headers: Mapping[str, str],
    query: str = "",
    *,
    method: str = "",
    path: str = "/",
    path_params: dict[str, str] | None = None,
) -> Incoming:
    """A request that no client has sent."""
    lines = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    head = RequestHead(
        endpoint="made-up",
        http_method=method or ("POST" if body else "GET"),
        path=quote(path).encode(),
        query=query.encode(),
        headers=[(b"host", b"testserver"), *lines],
        path_params=path_params or {},
        request_id="made-up",
        client=("testclient", 50000),
    )
    return Incoming(head, body, None)


class AwaitableBool(int):
    """A truth value that can also be awaited, for code that was written for Starlette."""

    def __await__(self) -> Generator[Any, None, bool]:
        return bool(self)
        yield

    def send(self, value: None) -> NoReturn:
        raise StopIteration(bool(self))

    def throw(self, error: BaseException) -> NoReturn:
        raise error

    def close(self) -> None:
        """Part of the coroutine interface; there is nothing to close."""

    def __repr__(self) -> str:
        return repr(bool(self))


class HandleForm:
    """Result of ``form()`` of a handle call in an ``async def`` callable: awaited, or used in ``async with``."""

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming

    def __await__(self) -> Generator[Any, None, dict[str, Any]]:
        return self._incoming.object_as_form()
        yield

    async def __aenter__(self) -> dict[str, Any]:
        return self._incoming.object_as_form()

    async def __aexit__(self, *error: object) -> None:
        """A dict has nothing to close."""


@functools.cache
def handle_request_class() -> Any:
    """The class of handle calls' requests. Made on first use, so that importing this module imports no Starlette."""
    from starlette.requests import Request as StarletteRequest

    class HandleRequest(StarletteRequest):
        """The request of a handle call in an ``async def`` callable: Starlette's interface over Python objects.

        Starlette's constructor runs when one of its attributes is first used, since most calls use the body only.
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

        @property
        def base_url(self) -> URL:
            return self._incoming.base_url()

        async def is_disconnected(self) -> bool:
            left: bool = self._incoming.left
            return left

        async def stream(self) -> AsyncIterator[bytes]:  # type: ignore[override]
            yield self._incoming.object_as_bytes()

        async def body(self) -> Any:
            return self._incoming.data

        async def json(self) -> Any:
            return self._incoming.object_as_json()

        def form(self, **_: Any) -> Any:
            return HandleForm(self._incoming)

    return HandleRequest
