"""What is asked of a request before anything else is done with it, on every way: by which name, from which page, with
which key.

    proxies    a trusted one says who the client is, and by which scheme it came
    host       400
    page       a preflight is answered here; a socket for a page of another origin is a 403
    key        401; what is left of its rate, or 429
    endpoint   403, once the route is known: :func:`check_key`

Health is told to everybody, by its own paths alone, which no rewriting leads to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, MutableSequence
from typing import NamedTuple

from pointsman.ingress.codec import ErrorAnswer, Headers, RequestRejected, Scope
from pointsman.lock.hosts import ANY, Hosts, Proxies, scheme_of
from pointsman.lock.keys import KeySpec, digest_of
from pointsman.lock.meters import Meter
from pointsman.lock.origins import Origins, Preflight
from pointsman.model import Reason
from pointsman.wire.handover import LockSettings

OPEN_PATHS = frozenset((b"/-/healthz", b"/-/readyz", b"/v2/health/live", b"/v2/health/ready"))
MAX_PAGES = 256
"""Origins that are remembered, of those that are allowed."""
KEY_NAME_HEADER = b"x-serve-key-name"
KEY = "pointsman.key"
"""In a scope: the key by which its request was let in."""
NOBODY = KeySpec("", b"")
"""In the place of a key, for what needs none."""
REALM: Headers = [(b"www-authenticate", b'Bearer realm="pointsman"')]
CORS_HEADERS = frozenset(
    (b"access-control-allow-origin", b"access-control-allow-credentials", b"access-control-expose-headers")
)


class Entry(NamedTuple):
    """What a request is told.

    Attributes:
        answer: in place of what it asked for; None to let it in.
        lines: for the head of its answer, whatever that is.
        meter: which has counted it, and is told when it is over.
    """

    answer: ErrorAnswer | Preflight | None = None
    lines: bytes = b""
    meter: Meter | None = None


LET_IN = Entry()


class Grant:
    """A key as it is asked for.

    Attributes:
        key: which it is.
        shown: the header by which user code learns of it.
        meter: what is left of it; None without limits.
        entry: of its requests, as long as something is left of it.
    """

    __slots__ = ("entry", "key", "meter", "shown")

    def __init__(self, key: KeySpec, meter: Meter | None) -> None:
        self.key = key
        self.shown = (KEY_NAME_HEADER, key.name.encode("ascii"))
        self.meter = meter
        self.entry = LET_IN if meter is None else Entry(meter=meter)


class Door:
    """See the module.

    Args:
        settings: what is asked.
        cells: gives the cells that this node's servers share for a key, by its name.
        own: number of this server on its node.
        clock: seconds, by a clock that these servers share.

    Attributes:
        ask: asks a request, by the head of it; sockets too. Changes the scope: the client and scheme, the key by which
            it was let in, and among the headers the key's name in the place of the key.
    """

    def __init__(
        self,
        settings: LockSettings,
        *,
        cells: Callable[[str], MutableSequence[float]],
        own: int,
        clock: Callable[[], float],
    ) -> None:
        self._secure = settings.tls is not None
        self._hosts = None if ANY in settings.allowed_hosts else Hosts(settings.allowed_hosts)
        self._origins = None if settings.cors is None else Origins(settings.cors)
        self._pages: dict[bytes, Entry] = {}
        self._no_page = Entry(lines=self._origins.no_page) if self._origins is not None else LET_IN
        self._proxies = Proxies(settings.trusted_proxies) if settings.trusted_proxies else None
        self._wants_key = settings.wants_key
        self._cells = cells
        self._own = own
        self._clock = clock
        self._found: dict[str, MutableSequence[float]] = {}
        self.use_keys(settings.keys)
        others = (self._secure, self._hosts, self._origins, self._proxies)
        self.ask: Callable[[Scope], Entry] = self._ask if any(others) or not self._wants_key else self._ask_for_key

    def use_keys(self, keys: Iterable[KeySpec]) -> None:
        """Ask for these keys from now on. What a key has used up stays used up."""
        self._grants = {key.digest: Grant(key, self._meter_of(key)) for key in keys}
        self._bearers: dict[int, Grant] = {}
        self._plain: dict[int, Grant] = {}

    def _meter_of(self, key: KeySpec) -> Meter | None:
        if key.rate is None and key.max_in_flight is None:
            return None
        if key.name not in self._found:
            self._found[key.name] = self._cells(key.name)
        return Meter(key, self._found[key.name], self._own)

    def _ask(self, scope: Scope) -> Entry:
        if self._secure:
            scope["scheme"] = "https"
        if self._proxies is not None:
            _believe(self._proxies, scope)
        if self._hosts is not None and not self._hosts.allows(_value_of(b"host", scope["headers"])):
            return Entry(ErrorAnswer(400, Reason.REJECTED, "this server is not known by the host of the request"))
        if self._origins is None:
            return self._ask_for_key(scope) if self._wants_key else LET_IN
        if scope["method"] == "OPTIONS" and _is_preflight(scope["headers"]):
            return Entry(self._origins.preflight(scope["headers"]))
        page = self._ask_for_page(self._origins, scope["headers"])
        if page.answer is not None or not self._wants_key:
            return page
        return self._ask_for_key(scope)._replace(lines=page.lines)

    def _ask_for_page(self, origins: Origins, headers: Headers) -> Entry:
        # hot: where pages are let in, for every request
        origin = _value_of(b"origin", headers)
        if origin is None:
            return self._no_page
        page = self._pages.get(origin)
        if page is None:
            lines = origins.lines(origin)
            if lines is not origins.no_page:
                page = Entry(lines=lines)
                if len(self._pages) < MAX_PAGES:
                    self._pages[origin] = page
            elif _wants_socket(headers) and not _is_own(origin, _value_of(b"host", headers)):
                page = Entry(ErrorAnswer(403, Reason.REJECTED, "pages of this origin get no socket"), lines)
            else:
                page = self._no_page
        return page

    def _ask_for_key(self, scope: Scope) -> Entry:
        # hot: where keys are asked for, of every request
        headers: Headers = scope["headers"]
        if scope["raw_path"] in OPEN_PATHS or (scope["method"] == "OPTIONS" and _is_preflight(headers)):
            scope[KEY] = NOBODY
            headers[:] = [header for header in headers if not self._is_key(*header)]  # user code may answer this, too
            return LET_IN
        grant = self._grant_of(headers)
        if isinstance(grant, str):
            return Entry(ErrorAnswer(401, Reason.REJECTED, grant, REALM))
        scope[KEY] = grant.key
        if grant.meter is not None:
            wait_s = grant.meter.begin(self._clock())
            if wait_s:
                retry = [(b"retry-after", b"%d" % math.ceil(wait_s))]
                text = "the API key has sent too many requests; try again later"
                return Entry(ErrorAnswer(429, Reason.REJECTED, text, retry))
        return grant.entry

    def _grant_of(self, headers: Headers) -> Grant | str:
        """The key that a request shows, in the place of which its name is put; or what is wrong, in words.

        Either header may hold something else, such as a token for user code, which then gets it.
        """
        named = dict(headers)
        bearer, plain = named.get(b"authorization"), named.get(b"x-api-key")
        if len(named) < len(headers):
            names = [name for name, _ in headers]
            if names.count(b"authorization") > 1 or names.count(b"x-api-key") > 1:
                return "the request has more than one Authorization or X-API-Key header"
        first = second = None
        if bearer is not None:
            first = self._bearers.get(hash(bearer)) or self._find(self._bearers, bearer, _bearer(bearer))
        if plain is not None:
            second = self._plain.get(hash(plain)) or self._find(self._plain, plain, plain.strip())
        found = first or second
        if found is None:
            return "an API key is needed, as Authorization: Bearer KEY or X-API-Key: KEY"
        if first is not None and second is not None:
            if first is not second:
                return "the request shows two API keys; send one"
            headers.remove((b"x-api-key", plain or b""))
        shown = (b"authorization", bearer) if first is not None else (b"x-api-key", plain)
        headers[headers.index(shown)] = found.shown  # type: ignore[arg-type]
        return found

    def _is_key(self, name: bytes, value: bytes) -> bool:
        """Whether a header shows one of the keys."""
        if name == b"authorization":
            return digest_of(_bearer(value)) in self._grants
        return name == b"x-api-key" and digest_of(value.strip()) in self._grants

    def _find(self, known: dict[int, Grant], value: bytes, key: bytes) -> Grant | None:
        found = self._grants.get(digest_of(key)) if key else None
        if found is not None:
            # The next request of this client shows the same value. Of that Python's hash is kept, which is keyed, and
            # as good against guessing as 64 bits are: a digest takes a twentieth of what a request takes here.
            if len(known) > 4 * len(self._grants):
                known.clear()
            known[hash(value)] = found
        return found


def check_key(scope: Scope, endpoint: str) -> None:
    """May the key by which a request was let in use this endpoint? To be asked where keys are wanted, on every way.

    Raises:
        RequestRejected: it may not; or nobody has asked for the key, as where a middleware has made another scope.
    """
    key: KeySpec | None = scope.get(KEY)
    if key is None:
        raise RequestRejected(ErrorAnswer(401, Reason.REJECTED, "an API key is needed", REALM))
    if key.endpoints is not None and endpoint not in key.endpoints:
        raise RequestRejected(ErrorAnswer(403, Reason.REJECTED, "the API key is not for this endpoint"))


def without_cors(headers: Headers) -> Headers:
    """What user code has said about CORS gives way to what the operator has said."""
    return [header for header in headers if header[0].lower() not in CORS_HEADERS]


def _bearer(authorization: bytes) -> bytes:
    return authorization[7:].strip() if authorization[:7].lower() == b"bearer " else b""


def _value_of(wanted: bytes, headers: Headers) -> bytes | None:
    for name, value in headers:
        if name == wanted:
            return value
    return None


def _is_preflight(headers: Headers) -> bool:
    names = {name for name, _ in headers}
    return b"origin" in names and b"access-control-request-method" in names


def _wants_socket(headers: Headers) -> bool:
    return any(name == b"upgrade" and b"websocket" in value.lower() for name, value in headers)


def _is_own(origin: bytes, host: bytes | None) -> bool:
    """Whether a page is one of this server itself, by the name that the client uses."""
    scheme, _, authority = origin.lower().partition(b"://")
    return scheme in (b"http", b"https") and host is not None and authority == host.lower()


def _believe(proxies: Proxies, scope: Scope) -> None:
    peer = scope["client"]
    if not proxies.trusts(peer[0] if peer is not None else ""):
        return
    headers: Headers = scope["headers"]
    scope["client"] = proxies.client(peer, [value for name, value in headers if name == b"x-forwarded-for"])
    protos = [value for name, value in headers if name == b"x-forwarded-proto"]
    scheme = scheme_of(protos[-1]) if protos else None
    if scheme is not None:
        scope["scheme"] = scheme
