"""Encodes what user code returned: as HTTP status, headers and bytes, or as a pickled object."""

from __future__ import annotations

import re
import sys
from http import HTTPStatus
from typing import Any, NamedTuple

from pointsman.exceptions import AnswerError, UserCodeError
from pointsman.incoming import CODEC_HTTP, RequestHead
from pointsman.replica.jsonform import to_json
from pointsman.wire import pickling

Headers = list[tuple[bytes, bytes]]

TEXT: Headers = [(b"content-type", b"text/plain")]
TEXT_UTF8: Headers = [(b"content-type", b"text/plain; charset=utf-8")]
JSON: Headers = [(b"content-type", b"application/json")]
NDJSON: Headers = [(b"content-type", b"application/x-ndjson")]

MAX_RESPONSE_HEAD = 64 * 1024
HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
     b"transfer-encoding", b"upgrade")
)  # fmt: skip
OURS = frozenset((b"x-serve-backend", b"x-serve-policy-version", b"x-serve-request-id"))
"""Headers that only the ingress sets. User code may return them in an answer that it got from another instance."""
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(rb"[\0-\x08\n-\x1f\x7f]")


class Answer(NamedTuple):
    """A whole (not streamed) answer."""

    status: int
    headers: Headers
    body: bytes


def is_response(value: Any) -> bool:
    """True for a Starlette response. Does not import Starlette: if it was not imported, no value is one."""
    module = sys.modules.get("starlette.responses")
    return module is not None and isinstance(value, module.Response)


def is_streaming(value: Any) -> bool:
    """True for a Starlette response that streams an iterable."""
    module = sys.modules.get("starlette.responses")
    return module is not None and isinstance(value, module.StreamingResponse)


def needs_asgi(value: Any, http_method: str) -> bool:
    """True if a Starlette response must be called as an ASGI app: it streams, reads a file, has a background task, or
    overrides ``__call__``; or it answers HEAD with the length of a body that it does not hold."""
    body = getattr(value, "body", None)
    own = type(value).__call__ is not sys.modules["starlette.responses"].Response.__call__
    if own or not isinstance(body, bytes) or value.background is not None:
        return True
    return http_method == "HEAD" and length_of(value.raw_headers) not in (None, len(body))


def is_iterator(value: Any) -> bool:
    """True for a sync iterator, which is streamed. Files are iterators; those of ``tempfile`` are wrappers whose class
    has no ``__next__``, and count as well."""
    kind = type(value)
    if kind in PLAIN:
        return False
    return getattr(kind, "__next__", None) is not None or (kind.__module__ == "tempfile" and hasattr(kind, "__iter__"))


def is_async_iterator(value: Any) -> bool:
    """True for a value that works with ``async for``, which is streamed."""
    kind = type(value)
    return kind not in PLAIN and (
        getattr(kind, "__anext__", None) is not None or getattr(kind, "__aiter__", None) is not None
    )


def takes_time(value: Any, http_method: str) -> bool:
    """True if sending a value takes time: it is iterated, or called as an ASGI app."""
    if type(value) in PLAIN:
        return False
    return is_iterator(value) or is_async_iterator(value) or (is_response(value) and needs_asgi(value, http_method))


PLAIN = frozenset((str, bytes, dict, list, tuple, int, float, bool, type(None)))
"""Types of the usual answers, which need no further checks: they are neither streamed nor called."""


def is_text(value: Any) -> bool:
    """True if a value of a stream is sent as it is, not as JSON."""
    return isinstance(value, (str, bytes, bytearray, memoryview))


def encode_answer(value: Any, request: RequestHead) -> Answer:
    """Encode a value that is sent whole.

    Raises:
        AnswerError: the value has no JSON form, or a status or header is invalid.
        UserCodeError: it cannot be pickled, or is too large.
    """
    if request.codec != CODEC_HTTP:
        return Answer(200, [], dumps(value))
    if isinstance(value, str):
        return Answer(200, TEXT_UTF8, value.encode())
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Answer(200, TEXT, bytes(value))
    if value is None:
        return Answer(200, TEXT, b"")
    if is_response(value):
        return Answer(check_status(value.status_code), check_headers(value.raw_headers), value.body)
    if type(value) is tuple:
        _check_pair(value)
    return Answer(200, JSON, to_json(value))


def _check_pair(value: tuple[Any, ...]) -> None:
    """Refuse a tuple of a body and a status, which means a response in Flask. Other tuples are lists in JSON.

    Text and a number is accepted: it may be a label and a count, and an answer must not depend on the count.

    Raises:
        AnswerError: the tuple looks like a body and a status.
    """
    if not (len(value) == 2 or (len(value) == 3 and isinstance(value[2], dict))):
        return
    body, status = value[:2]
    is_body = body is None or isinstance(body, (dict, list)) or hasattr(body, "model_dump")
    is_body = is_body or (len(value) == 3 and isinstance(body, (str, bytes)))
    known = isinstance(status, HTTPStatus) or (type(status) is int and status in _STATUSES and is_body)
    if known or is_response(body):
        code = int(status) if known else 404
        raise AnswerError(
            f"a tuple of a body and the status {code} is not taken apart: return JSONResponse(body, status_code={code})"
            " or another Response of Starlette's, or a list if it is meant as JSON"
        )


_STATUSES = frozenset(int(status) for status in HTTPStatus if status >= 200)


def encode_chunk(value: Any, codec: int, *, lines: bool = False) -> bytes:
    """Encode one value of a stream. With ``lines`` JSON is followed by a newline."""
    if codec != CODEC_HTTP:
        return dumps(value)
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return to_json(value) + b"\n" if lines else to_json(value)


def length_of(headers: Headers) -> int | None:
    """The content length in headers of user code; None if it is missing or invalid."""
    found = {value for name, value in headers if name.lower() == b"content-length"}
    if len(found) != 1:
        return None
    value = found.pop()
    return int(value) if value.isdigit() and len(value) < 20 else None


def check_status(status: int) -> int:
    """Validate the status of a response of user code.

    Raises:
        AnswerError: it is not a final status of HTTP.
    """
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise AnswerError(f"response status {status!r} is not between 200 and 599")
    return status


_known_heads: dict[tuple[tuple[Any, ...], ...], tuple[Headers, int | None]] = {}
MAX_KNOWN, MAX_KNOWN_BYTES = 256, 1024
"""Heads that are remembered, and bytes of each."""


def app_head(headers: Any) -> tuple[Headers, int | None]:
    """The headers that an app's answer begins with, and its length; None where that is not said.

    Raises:
        AnswerError: as :func:`check_headers`.
        TypeError, ValueError: they are no pairs of bytes.
    """
    # hot: the answers of a route mostly have the same ones, and to look them up takes a tenth of the time.
    given = tuple(map(tuple, headers))
    try:
        known = _known_heads.get(given)
    except TypeError:  # they are bytearrays
        known = None
    if known is None:
        pairs = tuple([(bytes(memoryview(name)), bytes(memoryview(value))) for name, value in given])
        kept = check_headers(list(pairs))
        if any(name.lower() == b"connection" and b"close" in value.lower() for name, value in pairs):
            kept.append((b"connection", b"close"))
        known = kept, length_of(list(pairs))
        if sum(len(name) + len(value) for name, value in pairs) <= MAX_KNOWN_BYTES:
            if len(_known_heads) >= MAX_KNOWN:
                _known_heads.clear()
            _known_heads[pairs] = known
    return known


def check_headers(headers: Headers) -> Headers:
    """Validate headers of user code. Drops hop-by-hop headers and those that the ingress sets.

    Raises:
        AnswerError: a name has other than token characters, a value has a control character, or the headers are over
            64 KiB.
    """
    kept = []
    for name, value in headers:
        if not _NAME.fullmatch(name):
            raise AnswerError(f"response header name {name[:100]!r} must be letters, digits and !#$%&'*+-.^_`|~")
        if _CONTROL.search(value):
            raise AnswerError(f"response header {name[:100]!r} has a control character in its value")
        lower = name.lower()
        if lower not in HOP_BY_HOP and lower not in OURS and lower != b"content-length":
            kept.append((lower, value))
    size = sum(len(name) + len(value) + 4 for name, value in kept)
    if size > MAX_RESPONSE_HEAD:
        raise AnswerError(f"the response's headers take {size} bytes, over the limit of {MAX_RESPONSE_HEAD}")
    return kept


def dumps(value: Any) -> bytes:
    """Pickle a value for a caller that takes Python objects.

    Raises:
        UserCodeError: it cannot be pickled, or is too large.
    """
    try:
        return pickling.dumps(value, what=f"a value of type {type(value).__name__}")
    except (TypeError, ValueError) as error:
        raise UserCodeError(str(error)) from error
