"""What an HTTP server says of itself, below ``/-/``: its routes, its health, whether it is ready, the API document and
the page that shows it."""

from __future__ import annotations

import msgspec

from pointsman.ingress.asgi import Send, send_whole
from pointsman.ingress.codec import ErrorAnswer, Headers, RequestRejected
from pointsman.ingress.openapi import API_KEYS, ApiDocument, page
from pointsman.model import Reason, RoutingTable

ROUTES, HEALTH, READY = "/-/routes", "/-/healthz", "/-/readyz"
DOCUMENT, PAGE = "/-/openapi.json", "/-/docs"
JSON: Headers = [(b"content-type", b"application/json")]
CURRENT: Headers = [(b"cache-control", b"no-cache"), (b"x-content-type-options", b"nosniff")]
PAGE_HEADERS: Headers = [
    (b"content-type", b"text/html; charset=utf-8"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self';"
        b" base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]


def no_route() -> RequestRejected:
    """Nothing is at a path."""
    return RequestRejected(ErrorAnswer(404, Reason.NO_SUCH_ENDPOINT, "no such route; GET /-/routes lists them"))


class SystemPaths:
    """See the module.

    Args:
        docs: whether there is a document.
        shows_backends: whether it may name backends.
        wants_key: whether requests need an API key.

    Attributes:
        leaving: True once the end of the instance is announced; then it is not ready any more.
    """

    def __init__(self, *, docs: bool, shows_backends: bool, wants_key: bool) -> None:
        self._document = ApiDocument(API_KEYS if wants_key else None, shows_backends=shows_backends) if docs else None
        self.leaving = False
        self._paths = (ROUTES, HEALTH, READY, *((DOCUMENT, PAGE) if docs else ()))

    def __contains__(self, path: str) -> bool:
        return path in self._paths

    def needs_table(self, path: str) -> bool:
        """Whether an answer is read from the routing table, which must be a true one."""
        return path in self._paths and path not in (HEALTH, READY)

    async def answer(self, path: str, method: str, send: Send, *, table: RoutingTable, serving: bool) -> None:
        """Answer a request.

        Raises:
            RequestRejected: there is nothing at its path, or not for its method.
        """
        if path not in self._paths:
            raise no_route()
        if method not in ("GET", "HEAD"):
            text = "the route does not allow this method"
            raise RequestRejected(ErrorAnswer(405, Reason.REJECTED, text, [(b"allow", b"GET, HEAD")]))
        if path == HEALTH:
            await send_whole(send, 200 if serving else 503, msgspec.json.encode({"serving": serving}), JSON)
        elif path == READY:
            ready = serving and not self.leaving and table.came_up
            await send_whole(send, 200 if ready else 503, msgspec.json.encode({"ready": ready}), JSON)
        elif path == ROUTES:
            routes = {e.route: [e.name, list(e.methods)] for e in table.endpoints.values() if e.route is not None}
            await send_whole(send, 200, msgspec.json.encode(routes), JSON)
        elif path == DOCUMENT:
            assert self._document is not None
            await send_whole(send, 200, self._document.data(table), [*JSON, *CURRENT])
        else:
            await send_whole(send, 200, page(), [*PAGE_HEADERS, *CURRENT])
