"""HTTP requests to calls, and replies or errors to HTTP answers. Does not look into bodies."""

from __future__ import annotations

import asyncio
import itertools
import re
import secrets
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from pointsman.exceptions import (
    AnswerError,
    BackpressureError,
    CallRejectedError,
    DeadlineExceededError,
    ReplicaDiedError,
    TooLargeError,
    UserCodeError,
)
from pointsman.incoming import CODEC_HTTP, RequestHead
from pointsman.model import DEFAULT_SHARD_KEY, PLAIN, EndpointSpec, Reason
from pointsman.policy.multiplexing import MAX_MODEL_ID, decode_model_id
from pointsman.policy.shardkey import BadShardKey, decode_key, read_key
from pointsman.routing.appcalls import AppCall
from pointsman.routing.call import SAFE_METHODS, Call, CallFuture
from pointsman.routing.refusals import NotStartingError
from pointsman.routing.reply import Reply
from pointsman.routing.router import NoSuchEndpointError
from pointsman.routing.shadow import SHADOW_HEADER
from pointsman.wire.failures import BadBodyError, InvalidRequestError
from pointsman.wire.messages import WHOLE, AppPart

Scope = dict[str, Any]
Headers = list[tuple[bytes, bytes]]
Where = tuple[str, "tuple[str, int | None] | None"]
"""Scheme, and the host and port that a client has connected to."""
NOWHERE: Where = ("http", None)

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_LINES = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [^\0-\x08\n-\x1f\x7f]*\r\n)*")
"""Names of token characters, and values without control characters."""
MAX_KNOWN = 256
"""Sets of headers that are remembered, and bytes of each."""
_known_lines: dict[tuple[tuple[bytes, bytes], ...], bytes] = {}
_ids = itertools.count(1)
_id_prefix = secrets.token_hex(5).encode()

MODEL_HEADERS = (b"serve_multiplexed_model_id", b"serve-multiplexed-model-id")
"""Proxies may drop names with underscores, so there is one with dashes, too."""
_BAD_MODEL_ID = f"header serve_multiplexed_model_id must have 1 to {MAX_MODEL_ID} bytes of UTF-8"
_KNOWN = frozenset(
    (
        b"content-length",
        b"transfer-encoding",
        b"x-serve-call-method",
        b"x-serve-shard-key",
        b"x-serve-timeout-s",
        SHADOW_HEADER,
        b"x-request-id",
        b"idempotency-key",
        *MODEL_HEADERS,
    )
)


class KnownHeaders(NamedTuple):
    """The request headers that the ingress acts on.

    Attributes:
        idempotency_key: whether there is an ``Idempotency-Key``.
        shard_key: of the default header; an endpoint may have another source.
        model_id: of the model that the request names; empty if it names none.
        problem: why one of these headers is invalid; empty if none is.
    """

    method_name: str
    has_body: bool
    content_length: int
    idempotency_key: bool
    shard_key: bytes | None
    timeout_s: float | None
    problem: str
    model_id: str = ""


class RequestRejected(Exception):
    """The request is answered with an error by the ingress, and not sent to a backend."""

    def __init__(self, answer: ErrorAnswer) -> None:
        self.answer = answer


def read_headers(headers: Headers) -> KnownHeaders:
    """Read the known headers in one pass, and change ``headers`` in place.

    A missing or invalid request id is replaced, so that logs, answers and user code all have the same id. The header
    that marks shadow calls is removed, since only routers may set it.
    """
    method_name, request_id, problem = "", -1, ""
    has_body, idempotency_key, content_length = False, False, 0
    shard_key, forged, timeout_s, model_id = None, False, None, ""
    for index, (name, value) in enumerate(headers):
        if name in _KNOWN:
            if name == b"content-length":
                content_length = int(value)
                has_body = content_length > 0
            elif name == b"transfer-encoding":
                has_body = True
            elif name == b"idempotency-key":
                idempotency_key = True
            elif name == b"x-request-id":
                request_id = index
            elif name == b"x-serve-shard-key":
                shard_key = value if shard_key is None else shard_key
            elif name == b"x-serve-timeout-s":
                timeout_s = _timeout(value)
                problem = problem if timeout_s else "header x-serve-timeout-s must be a number of seconds above 0"
            elif name == SHADOW_HEADER:
                forged = True
            elif name != b"x-serve-call-method":
                model_id = model_id or decode_model_id(value) or ""
                problem = problem if model_id else _BAD_MODEL_ID
            else:
                method_name = value.decode(errors="replace")
                problem = problem if method_name.encode() == value else f"header {name.decode()} is not UTF-8"
    if request_id < 0:
        headers.append((b"x-request-id", b"%s%x" % (_id_prefix, next(_ids))))
    elif not _REQUEST_ID.fullmatch(headers[request_id][1]):
        headers[request_id] = (b"x-request-id", b"%s%x" % (_id_prefix, next(_ids)))
    if forged:
        headers[:] = [header for header in headers if header[0] != SHADOW_HEADER]
    return KnownHeaders(method_name, has_body, content_length, idempotency_key, shard_key, timeout_s, problem, model_id)


def _timeout(value: bytes) -> float:
    """The value of the timeout header in seconds; 0 if it is invalid."""
    try:
        timeout_s = float(value)
    except ValueError:
        return 0.0
    return timeout_s if 0 < timeout_s < float("inf") else 0.0


def make_call(
    scope: Scope,
    endpoint: EndpointSpec,
    parameters: dict[str, str],
    known: KnownHeaders,
    *,
    raw_path: bytes,
    shard_key: str | None,
    body: bytes,
    deadline: float,
    future: CallFuture,
    timed: bool,
    where: Where = NOWHERE,
    follows: int = WHOLE,
) -> Call:
    """Make the call of a request.

    Args:
        parameters: values of the route's template.
        deadline: in the time of the router's loop.
        timed: whether the replica reports how long the call waited and ran.
        where: how the client has connected, for apps.
        follows: what comes behind the call of an app, by :class:`~pointsman.wire.messages.AppPart`.
    """
    # hot: the head is made here once, whole and positional, for each request.
    method: str = scope["method"]
    headers: Headers = scope["headers"]
    request = RequestHead(
        endpoint.name,
        CODEC_HTTP,
        known.method_name,
        method,
        raw_path,
        scope["query_string"],
        headers,
        parameters,
        request_id_of(headers),
        scope.get("client"),
        scope.get("scheme", "http"),
        known.model_id,
    )
    idempotent = method in SAFE_METHODS or known.idempotency_key or endpoint.idempotent
    if endpoint.surface != PLAIN:
        prefix = (endpoint.route or "").rstrip("/")
        return AppCall(
            request,
            body,
            app=AppPart(prefix, scope["http_version"], *where, follows),
            deadline=deadline,
            future=future,
            shard_key=shard_key,
            idempotent=idempotent,
            timed=timed,
        )
    return Call(
        request, body, deadline=deadline, future=future, shard_key=shard_key, idempotent=idempotent, timed=timed
    )


def shard_key_of(known: KnownHeaders, endpoint: EndpointSpec, headers: Headers, query: bytes) -> str | None:
    """The request's shard key, read from the endpoint's source; None if there is none.

    Raises:
        RequestRejected: the key is too long, or not UTF-8.
    """
    try:
        if endpoint.shard_key != DEFAULT_SHARD_KEY:
            return read_key(endpoint.shard_key, headers, query)
        return None if known.shard_key is None else decode_key(known.shard_key)
    except BadShardKey as error:
        raise RequestRejected(ErrorAnswer(400, Reason.REJECTED, str(error))) from None


def request_id_of(headers: Headers) -> str:
    """The request's id, which :func:`read_headers` has added if there was none."""
    for name, value in reversed(headers):
        if name == b"x-request-id":
            return value.decode("latin-1")
    return ""


def decision_headers(call: Call) -> Headers:
    """Headers with the backend of a call and its policy version. Backend names may be non-ASCII: percent-encoded."""
    backend = quote(call.backend, safe=":+@").encode()
    return [(b"x-serve-backend", backend), (b"x-serve-policy-version", b"%d" % call.policy_version)]


def header_lines(headers: Headers) -> bytes | None:
    """Headers encoded for sending; None if one is invalid. Replicas check them too, but user code runs there, so they
    are not trusted."""
    # hot: answers of a backend mostly have the same ones, and looking them up takes a fifth of the time.
    key = tuple(headers)
    lines = _known_lines.get(key)
    if lines is not None:
        return lines
    lines = b"".join([b"%s: %s\r\n" % header for header in headers])
    if not _LINES.fullmatch(lines) or lines.count(b"\n") != len(headers):
        return None
    if len(lines) <= MAX_KNOWN:
        if len(_known_lines) >= MAX_KNOWN:
            _known_lines.clear()
        _known_lines[key] = lines
    return lines


def invalid_header() -> UserCodeError:
    """The error for an answer whose headers :func:`header_lines` does not accept."""
    return UserCodeError("InvalidHeader: a response header has a name or a value that HTTP does not allow")


class ErrorAnswer(NamedTuple):
    status: int
    reason: str
    text: str
    headers: Headers = []
    traceback: str = ""
    detail: bytes = b""
    """JSON: what does not fit in a request for typed code."""


def answer_for(error: BaseException) -> ErrorAnswer:
    """Status, reason and text with which a failed call is answered over HTTP."""
    if isinstance(error, NotStartingError):
        text = "the backend's replicas fail to start; try again later"
        return ErrorAnswer(503, Reason.UNREACHABLE, text, [(b"retry-after", b"%d" % error.retry_after)])
    if isinstance(error, BackpressureError):
        retry = b"%d" % max(1, round(error.retry_after))
        return ErrorAnswer(503, Reason.QUEUE_FULL, "too many requests wait; try again later", [(b"retry-after", retry)])
    if isinstance(error, DeadlineExceededError):
        if error.started:
            return ErrorAnswer(504, Reason.DEADLINE, "the deadline passed; the request may have run")
        text = "no replica was free before the deadline; the request did not run"
        return ErrorAnswer(503, Reason.DEADLINE, text, [(b"retry-after", b"%d" % max(1, round(error.retry_after)))])
    if isinstance(error, ReplicaDiedError):
        return ErrorAnswer(502, Reason.REPLICA_DIED, "the replica died; the request may have run")
    if isinstance(error, NoSuchEndpointError):
        return ErrorAnswer(404, Reason.NO_SUCH_ENDPOINT, "no such route; GET /-/routes lists them")
    if isinstance(error, TooLargeError):
        return ErrorAnswer(413, Reason.REJECTED, str(error))
    if isinstance(error, BadBodyError):
        return ErrorAnswer(400, Reason.BAD_BODY, str(error))
    if isinstance(error, InvalidRequestError):
        status, reason = (422, Reason.INVALID) if error.detail else (415, Reason.MEDIA_TYPE)
        return ErrorAnswer(status, reason, str(error), detail=error.detail)
    if isinstance(error, CallRejectedError):
        return ErrorAnswer(400, Reason.REJECTED, "the call's method is missing or not open to callers")
    if isinstance(error, UserCodeError):
        # Only the class name is sent: the text may hold paths or data, and is in the replica's log.
        name, _, ours = str(error).partition(": ")
        if name == AnswerError.__name__:
            return ErrorAnswer(500, Reason.USER_CODE, f"the backend gave no answer: {ours}", traceback=error.traceback)
        return ErrorAnswer(500, Reason.USER_CODE, f"the backend raised {name}", traceback=error.traceback)
    return ErrorAnswer(503, Reason.UNREACHABLE, "the backend cannot be reached", [(b"retry-after", b"1")])


def wants_json(headers: Headers) -> bool:
    """True if ``Accept`` allows JSON, or is missing."""
    accepts = [value for name, value in headers if name == b"accept"]
    if not accepts:
        return True
    ranges = [part.strip().split(b";")[0] for value in accepts for part in value.lower().split(b",")]
    return any(wanted in ranges for wanted in (b"application/json", b"application/*", b"*/*"))


def error_reply(answer: ErrorAnswer, *, request_id: str, json: bool, debug: bool) -> Reply:
    """The error answer as a reply: text, reason and error id; with ``debug`` the traceback too."""
    if json:
        fields: dict[str, Any] = {"error": answer.text, "reason": answer.reason, "error_id": request_id}
        if debug and answer.traceback:
            fields["traceback"] = answer.traceback
        if answer.detail:
            fields["detail"] = msgspec.Raw(answer.detail)
        body, kind = msgspec.json.encode(fields), b"application/json"
    else:
        text = f"{answer.text} (error id {request_id})\n"
        if debug and answer.traceback:
            text += f"\n{answer.traceback}"
        body, kind = text.encode(), b"text/plain; charset=utf-8"
    headers = [(b"content-type", kind), (b"x-request-id", request_id.encode()), *answer.headers]
    return Reply(answer.status, headers, body)


def where_of(transport: asyncio.Transport) -> Where:
    """How the client of a connection has connected."""
    return "https" if transport.get_extra_info("sslcontext") else "http", address_of(transport, "sockname")


def address_of(transport: asyncio.Transport, end: str) -> tuple[str, int] | None:
    """Host and port of one end of a connection, ``peername`` or ``sockname``; None where it has none."""
    address = transport.get_extra_info(end)
    return (str(address[0]), int(address[1])) if isinstance(address, (tuple, list)) and len(address) >= 2 else None
