"""Which web pages may use the server: CORS, by the arguments of Starlette's ``CORSMiddleware``. Pure.

The server itself answers preflights, and adds headers to every answer, its own errors included: an app behind the locks
would not be asked, and a browser shows a page nothing of an error that lacks them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from pointsman.arguments import nearest

Headers = list[tuple[bytes, bytes]]

ALL_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY")
SAFE_HEADERS = ("Accept", "Accept-Language", "Content-Language", "Content-Type")
_VARY = b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network"
_NO_VALUE = re.compile(r"[^ -~]")


class CorsSpec(msgspec.Struct, frozen=True):
    """The arguments of Starlette's ``CORSMiddleware``, with its defaults."""

    allow_origins: tuple[str, ...] = ()
    allow_methods: tuple[str, ...] = ("GET",)
    allow_headers: tuple[str, ...] = ()
    allow_credentials: bool = False
    allow_origin_regex: str | None = None
    allow_private_network: bool = False
    expose_headers: tuple[str, ...] = ()
    max_age: int = 600


def cors_spec(given: Any) -> CorsSpec | None:
    """Check what a user gave; None is for no CORS.

    Raises:
        ValueError: not a dict of these arguments, or a value that one of them cannot have; ``"*"`` with credentials.
    """
    if given is None or isinstance(given, CorsSpec):
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f"it must be a dict of the arguments of CORSMiddleware, not {given!r}")
    known = CorsSpec.__struct_fields__
    for name in given:
        if name not in known:
            raise ValueError(f"the middleware has no argument {name!r}{nearest(str(name), known)}")
    spec = CorsSpec(**{name: _checked(name, value) for name, value in given.items()})
    if spec.allow_credentials and "*" in spec.allow_origins:
        raise ValueError('allow_origins "*" with allow_credentials opens it to every page; name the origins')
    return spec


def _checked(name: str, value: Any) -> Any:
    default = getattr(CorsSpec(), name)
    if isinstance(default, tuple):
        if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{name} must be a list of str, not {value!r}")
        if any(_NO_VALUE.search(item) for item in value):
            raise ValueError(f"{name} {value!r} holds what a header cannot")
        return tuple(sorted(value) if isinstance(value, (set, frozenset)) else value)
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, not {value!r}")
    elif isinstance(default, int):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{name} must be a number of seconds, not {value!r}")
    elif value is not None:
        if not isinstance(value, str):
            raise ValueError(f"{name} must be a regular expression, not {value!r}")
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{name} {value!r} is no regular expression: {error}") from None
    return value


class Preflight(NamedTuple):
    """The answer to a browser's question before a request."""

    status: int
    headers: Headers
    text: bytes


class Origins:
    """Answers as Starlette's middleware does.

    Args:
        spec: what is allowed.
    """

    def __init__(self, spec: CorsSpec) -> None:
        self._spec = spec
        self._any = "*" in spec.allow_origins
        self._origins = frozenset(spec.allow_origins)
        self._regex = re.compile(spec.allow_origin_regex) if spec.allow_origin_regex is not None else None
        self._methods = ALL_METHODS if "*" in spec.allow_methods else spec.allow_methods
        self._any_header = "*" in spec.allow_headers
        shown = sorted({*SAFE_HEADERS, *spec.allow_headers})
        self._allowed_headers = frozenset(name.lower() for name in shown)
        credentials: Headers = [(b"access-control-allow-credentials", b"true")] if spec.allow_credentials else []
        self._on_answers: Headers = [*credentials]
        if spec.expose_headers:
            self._on_answers.append((b"access-control-expose-headers", ", ".join(spec.expose_headers).encode()))
        self._on_preflights: Headers = [
            (b"vary", _VARY),
            (b"access-control-allow-methods", ", ".join(self._methods).encode()),
            (b"access-control-max-age", b"%d" % spec.max_age),
            *credentials,
        ]
        if not self._any_header:
            self._on_preflights.append((b"access-control-allow-headers", ", ".join(shown).encode()))
        # Of an answer to a request that no page has made, or one that is not allowed. Caches must tell them apart.
        self.no_page = _lines([(b"vary", b"Origin")])

    def allows(self, origin: bytes) -> bool:
        """Whether pages of this origin may read answers."""
        if self._any:
            return True
        text = origin.decode("latin-1")
        return text in self._origins or (self._regex is not None and self._regex.fullmatch(text) is not None)

    def lines(self, origin: bytes | None) -> bytes:
        """Lines for the head of the answer to a request.

        Args:
            origin: the page's, as the browser says; None if it says nothing.
        """
        if origin is None or not self.allows(origin):
            return self.no_page
        return _lines([(b"access-control-allow-origin", self._shown(origin)), *self._on_answers, (b"vary", b"Origin")])

    def preflight(self, headers: Headers) -> Preflight:
        """The answer to an OPTIONS request that has ``Origin`` and ``Access-Control-Request-Method``."""
        asked = dict(headers)
        origin, wanted = asked[b"origin"], asked.get(b"access-control-request-headers")
        answer, failures = [*self._on_preflights], []
        if self.allows(origin):
            answer.append((b"access-control-allow-origin", self._shown(origin)))
        else:
            failures.append(b"origin")
        if asked[b"access-control-request-method"].decode("latin-1") not in self._methods:
            failures.append(b"method")
        if wanted is not None and self._any_header:
            answer.append((b"access-control-allow-headers", wanted))
        elif wanted is not None:
            names = [name.strip().lower() for name in wanted.decode("latin-1").split(",")]
            if not self._allowed_headers.issuperset(names):
                failures.append(b"headers")
        if b"access-control-request-private-network" in asked:
            if self._spec.allow_private_network:
                answer.append((b"access-control-allow-private-network", b"true"))
            else:
                failures.append(b"private-network")
        if failures:
            return Preflight(400, answer, b"Disallowed CORS " + b", ".join(failures))
        return Preflight(200, answer, b"OK")

    def _shown(self, origin: bytes) -> bytes:
        return b"*" if self._any else origin


def _lines(headers: Headers) -> bytes:
    return b"".join([b"%s: %s\r\n" % header for header in headers])
