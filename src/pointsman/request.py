"""The request that user code receives, and the batch marker.

A ``def`` callable gets a :class:`Request`, which has the attributes of Starlette's and whose methods return values. An
``async def`` callable gets Starlette's own ``Request`` (through a handle: a subclass, since a handle carries Python
objects). Starlette is imported only when something of it is used: a sync backend that reads bytes never loads it.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pointsman.forms import Files, encode_body, encode_query, parse_form
from pointsman.incoming import AwaitableBool, Incoming, KeywordParams, handle_request_class, made_up

if TYPE_CHECKING:
    from starlette.datastructures import URL, Address, FormData, Headers, QueryParams, State
    from starlette.requests import Request as StarletteRequest

C = TypeVar("C")

BATCH_MARKER = "__pointsman_accepts_batch__"
BUCKET_MARKER = "__pointsman_buckets_by__"

MAX_PART_SIZE = 1024 * 1024
"""Starlette's limit on a form's field that is no file, in bytes."""


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
    exception object among the answers fails its own request only. On a class the mark is ignored, with a warning: mark
    its ``__call__`` instead.

    Args:
        function: the function or method to mark; None where only options are given: ``@accept_batch(bucket_by=...)``.
        bucket_by: a quick function of one :class:`Request`, such as ``lambda request: len(request.body()) // 1000``;
            only requests for which it gives the same value (str, number, bytes, None, or a tuple of these) share a
            batch. It runs when a request arrives, on the loop of the replica; what it raises fails that request.

    Returns:
        What was given, marked; with options only, a decorator that marks.

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
    # Mark the function inside: attribute access on the class returns it, not the staticmethod object around it.
    marked = function.__func__ if isinstance(function, (staticmethod, classmethod)) else function
    if not callable(marked):
        raise TypeError(f"accept_batch marks functions and methods, not {function!r}")
    setattr(marked, BATCH_MARKER, True)
    setattr(marked, BUCKET_MARKER, bucket_by)
    return function


def is_marked(function: Callable[..., Any] | None) -> bool:
    return getattr(function, BATCH_MARKER, False) is True


def bucket_of(function: Callable[..., Any]) -> Callable[[Any], Hashable] | None:
    """The ``bucket_by`` of a batching function; None if it has none."""
    bucket_by: Callable[[Any], Hashable] | None = getattr(function, BUCKET_MARKER, None)
    return bucket_by


def _as_starlette(name: str) -> Any:
    """A property that reads an attribute of the Starlette request of the same call."""
    return property(lambda request: getattr(request._starlette(), name), doc=f"As in Starlette: ``{name}``.")


class Request:
    """What a ``def`` callable receives: all that a Starlette ``Request`` has, with methods that return their values.
    Made by replicas; a unit test makes one by :meth:`of`. ``request["path"]`` reads the ASGI scope of the call.
    Middlewares run in the HTTP server, and what they leave in its scope stays there: ``session``, ``user`` and ``auth``
    raise as they do in Starlette without them.

    Attributes:
        method: HTTP method in upper case; for handle calls the ``http_method`` option.
        path_params: values of the route's template, decoded.
        app, auth, cookies, receive, send_early_hints, send_push_promise, session, state, url_for, user: Starlette's.
        get, items, keys, scope, values: the ASGI scope of the call, and its methods of a dict.
    """

    __slots__ = ("__weakref__", "_form", "_headers", "_incoming", "_whole", "method", "path_params")

    app: Any = _as_starlette("app")
    auth: Any = _as_starlette("auth")
    cookies: dict[str, str] = _as_starlette("cookies")
    get: Callable[..., Any] = _as_starlette("get")
    items: Callable[[], Any] = _as_starlette("items")
    keys: Callable[[], Any] = _as_starlette("keys")
    receive: Any = _as_starlette("receive")
    scope: dict[str, Any] = _as_starlette("scope")
    send_early_hints: Any = _as_starlette("send_early_hints")
    send_push_promise: Any = _as_starlette("send_push_promise")
    session: dict[str, Any] = _as_starlette("session")
    state: State = _as_starlette("state")
    url_for: Callable[..., URL] = _as_starlette("url_for")
    user: Any = _as_starlette("user")
    values: Callable[[], Any] = _as_starlette("values")

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._headers: Headers | None = None
        self.method = incoming.head.http_method
        self.path_params = incoming.head.path_params

    @staticmethod
    def of(
        *,
        json: Any = None,
        body: bytes | str | None = None,
        data: Mapping[str, Any] | None = None,
        files: Files | None = None,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        sync: bool = True,
        **head: Any,
    ) -> Any:
        """A request, for unit tests of user code: ``Model().__call__(serve.Request.of(json={"name": "Ada"}))``.

        Args:
            json: the body, as JSON.
            body: the body as it is.
            data: fields of a form.
            files: files of a multipart form, by field, as httpx takes them.
            query: query parameters; a list has several of one name.
            headers: of the request.
            sync: False for a Starlette request, which ``async def`` code gets.
            head: ``method`` (POST with a body, else GET), ``path`` and ``path_params``.
        """
        content, kind = encode_body(json=json, content=body, data=data, files=files)
        incoming = made_up(
            content, {**({"content-type": kind} if kind else {}), **(headers or {})}, encode_query(query), **head
        )
        return Request(incoming) if sync else async_request(incoming)

    @property
    def headers(self) -> Headers:
        """Headers, looked up without regard to case."""
        if self._headers is None:
            from starlette.datastructures import Headers

            self._headers = Headers(raw=self._incoming.head.headers)
        return self._headers

    @property
    def query_params(self) -> QueryParams | KeywordParams:
        """The query string's parameters, or the keyword arguments of a handle call."""
        if self._incoming.kwargs is not None:
            return KeywordParams(self._incoming.kwargs)
        from starlette.datastructures import QueryParams

        return QueryParams(self._incoming.head.query.decode("latin-1"))

    @property
    def url(self) -> URL:
        """The full URL; ``serve:///<endpoint>`` for a handle call."""
        return self._incoming.url()

    @property
    def base_url(self) -> URL:
        """The URL without path and query; ``serve:///`` for a handle call."""
        if self._incoming.kwargs is not None:
            return self._incoming.base_url()
        url: URL = self._starlette().base_url
        return url

    @property
    def client(self) -> Address | None:
        """Address and port of the HTTP client, as a named tuple; None for handle calls."""
        if self._incoming.head.client is None:
            return None
        from starlette.datastructures import Address

        return Address(*self._incoming.head.client)

    def body(self) -> Any:
        """The body: bytes over HTTP, the very object passed through a handle."""
        return self._incoming.data

    def stream(self) -> Iterator[bytes]:
        """The body, in one piece: it is complete before user code runs.

        Raises:
            ServeException: a handle call that carries no bytes.
        """
        yield self._incoming.data if self._incoming.kwargs is None else self._incoming.object_as_bytes()

    def json(self) -> Any:
        """The body, parsed as JSON.

        Raises:
            json.JSONDecodeError: the body is not JSON. The caller's fault: where user code lets it through, an HTTP
                client gets a 400.
            ServeException: a handle call that carries an object without a JSON form.
        """
        if self._incoming.kwargs is not None:
            return self._incoming.object_as_json()
        return json.loads(self._incoming.data)

    def form(
        self, *, max_files: float = 1000, max_fields: float = 1000, max_part_size: int = MAX_PART_SIZE
    ) -> FormData | dict[str, Any]:
        """The body, parsed as an urlencoded or multipart form; a handle call's dict as it is. Uploaded files have
        methods that return values, and ``with request.form() as form`` closes them.

        Args:
            max_files: most files of a multipart form.
            max_fields: most other fields.
            max_part_size: largest field that is no file, in bytes. Default 1 MiB.

        Raises:
            Exception: the body is no such form, or over a limit; an HTTP client gets a 400 for what user code lets
                through.
            ServeException: a handle call that carries no dict.
        """
        if self._incoming.kwargs is not None:
            return self._incoming.object_as_form()
        form: FormData | None = getattr(self, "_form", None)
        if form is None:
            limits: dict[str, Any] = {"max_files": max_files, "max_fields": max_fields}
            if max_part_size != MAX_PART_SIZE:  # older versions of Starlette do not know it
                limits["max_part_size"] = max_part_size

            async def parse() -> FormData:
                return await async_request(self._incoming).form(**limits)

            form = self._form = parse_form(parse)
        return form

    def is_disconnected(self) -> bool:
        """Whether the client has left, or has given the call up: nobody waits for the answer. It can be awaited as
        well, by code that was written for Starlette. It is true or false, but not ``True`` or ``False`` themselves:
        ``is False`` never holds, and in JSON it is 0 or 1. ``bool(...)`` makes it a bool."""
        return AwaitableBool(self._incoming.left)  # type: ignore[return-value]

    def close(self) -> None:
        """Close the files of the form, if it was read."""
        form: Any = getattr(self, "_form", None)
        if form is not None:
            form.close()

    def _starlette(self) -> Any:
        """The Starlette request of the same call, made on first use. It holds ``scope`` and ``state``."""
        try:
            return self._whole
        except AttributeError:
            self._whole: Any = async_request(self._incoming)
            return self._whole

    def __getitem__(self, key: str) -> Any:
        scope = self._starlette().scope
        if key not in scope:
            # Elsewhere the request that user code gets is the decoded body.
            raise KeyError(f"the scope of the request has no {key!r}; what a JSON body has is request.json()[{key!r}]")
        return scope[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._starlette().scope)

    def __len__(self) -> int:
        return len(self._starlette().scope)

    def __contains__(self, key: object) -> bool:
        return key in self._starlette().scope

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Request {self.method} {self._incoming.head.endpoint!r}>"


# hot: registered, not inherited: with an ABC as base, `isinstance(value, Request)` in each handle call is slower.
Mapping.register(Request)


def async_request(incoming: Incoming) -> StarletteRequest:
    """The Starlette request for an ``async def`` callable."""
    if incoming.kwargs is not None:
        handle_request: StarletteRequest = handle_request_class()(incoming)
        return handle_request
    from starlette.requests import Request as StarletteRequest

    async def receive() -> dict[str, Any]:
        if incoming.left and _asks_without_waiting():
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": incoming.data, "more_body": False}

    request = StarletteRequest(incoming.scope(), receive)
    vars(request)["_incoming"] = incoming  # for `passed_on`
    return request


def _asks_without_waiting() -> bool:
    """True if the caller is Starlette's ``is_disconnected``, which polls in a cancelled scope of anyio. Other callers
    want the body and still get it: a member of a batch whose client has left must not fail the others."""
    import anyio

    return anyio.current_effective_deadline() == float("-inf")


def passed_on(value: Any) -> Any:
    """What a handle sends for its first argument: a request that a backend was given is sent as it arrived.

    Raises:
        TypeError: a Starlette request that a backend was not given.
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
