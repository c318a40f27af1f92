"""A call as it reached a replica: what both kinds of requests are made of, and what a handle passes on.

Made by the replica for each call. Starlette is imported only when a URL is asked for.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from pointsman.exceptions import ServeException

if TYPE_CHECKING:
    from starlette.datastructures import URL


class KeywordParams(dict[str, Any]):
    """Keyword arguments of a handle call, in the place of HTTP's query parameters; values keep their type."""

    def getlist(self, key: str) -> list[Any]:
        """The value as a list of one, or an empty list."""
        return [self[key]] if key in self else []


class Incoming:
    """A call as it came over the wire, before user code sees it as one kind of request or the other.

    ``data`` holds bytes for HTTP and any Python object for a handle call; ``kwargs`` is None for HTTP. ``left`` is set
    once nobody waits for the answer any more.
    """

    __slots__ = (
        "client", "data", "endpoint", "headers", "http_method", "kwargs", "left", "path", "path_params", "query",
        "request_id",
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
        self.left = False

    def scope(self) -> dict[str, Any]:
        """The ASGI scope of this call."""
        raw_path = self.path or f"/{quote(self.endpoint, safe='')}".encode()
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

    def base_url(self) -> URL:
        """Of a handle call, which has no host."""
        from starlette.datastructures import URL

        return URL("serve:///")

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

    def object_as_bytes(self) -> bytes:
        """What ``stream()`` gives for a handle call."""
        if isinstance(self.data, (bytes, bytearray)):
            return bytes(self.data)
        kind = type(self.data).__name__
        raise ServeException(f"stream() needs bytes, and this call carries a {kind}; use body() for the object itself")
