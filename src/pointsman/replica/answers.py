"""What user code returned, as what travels: HTTP status, headers and bytes, or a pickled object."""

from __future__ import annotations

import re
import sys
from http import HTTPStatus
from typing import Any, NamedTuple

from pointsman.exceptions import AnswerError, UserCodeError
from pointsman.incoming import CODEC_HTTP
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
"""Headers that the ingress adds: an answer that user code has fetched from another instance may bring them along."""
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(rb"[\0-\x08\n-\x1f\x7f]")


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes


def is_response(value: Any) -> bool:
    """Whether a value is a Starlette response. Does not import Starlette: who made one has."""
    module = sys.modules.get("starlette.responses")
    return module is not None and isinstance(value, module.Response)


def is_streaming(value: Any) -> bool:
    """Whether a value is a Starlette response that streams what it iterates."""
    module = sys.modules.get("starlette.responses")
    return module is not None and isinstance(value, module.StreamingResponse)


def needs_asgi(value: Any, http_method: str) -> bool:
    """Whether a Starlette response must be run to be sent: it streams, reads a file, has a background task, or a way of
    its own to be sent; or it tells a HEAD the length of a body that it has not made."""
    body = getattr(value, "body", None)
    own = type(value).__call__ is not sys.modules["starlette.responses"].Response.__call__
    if own or not isinstance(body, bytes) or value.background is not None:
        return True
    return http_method == "HEAD" and length_of(value.raw_headers) not in (None, len(body))


def is_iterator(value: Any) -> bool:
    """Whether a value is a sync iterator of any kind, which is streamed. A list is none; the files of ``tempfile`` are,
    as other files are, though their classes do not say so."""
    kind = type(value)
    if kind in PLAIN:
        return False
    return getattr(kind, "__next__", None) is not None or (kind.__module__ == "tempfile" and hasattr(kind, "__iter__"))


def is_async_iterator(value: Any) -> bool:
    """Whether a value is iterated by ``async for``, and so streamed."""
    kind = type(value)
    return kind not in PLAIN and (
        getattr(kind, "__anext__", None) is not None or getattr(kind, "__aiter__", None) is not None
    )


def is_long(value: Any, http_method: str) -> bool:
    """Whether a value takes its time to be sent: it is iterated, or run."""
    if type(value) in PLAIN:
        return False
    return is_iterator(value) or is_async_iterator(value) or (is_response(value) and needs_asgi(value, http_method))


PLAIN = frozenset((str, bytes, dict, list, tuple, int, float, bool, type(None)))
"""Types of the usual answers, which are neither iterated nor run: the others are looked at more closely."""


def is_text(value: Any) -> bool:
    """Whether a value of a stream is sent as it is, and not as JSON."""
    return isinstance(value, (str, bytes, bytearray, memoryview))


def encode_answer(value: Any, codec: int) -> Answer:
    """Turn a value into an answer.

    Raises:
        AnswerError: the value has no such form, or a header is not fit to be sent.
    """
    if codec != CODEC_HTTP:
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
    """A tuple is a list in JSON; but one of a body and a status is a mistake of who is used to another framework.

    Text and a number is not taken for one: it may as well be a label and a count, and whether that can be sent must not
    depend on the count.

    Raises:
        AnswerError: it looks like one.
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
    """Turn one item of a stream into bytes; with ``lines``, JSON ends its line."""
    if codec != CODEC_HTTP:
        return dumps(value)
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return to_json(value) + b"\n" if lines else to_json(value)


def length_of(headers: Headers) -> int | None:
    """What headers of user code say of the length of the body; None where they say nothing, or nothing that counts."""
    found = {value for name, value in headers if name.lower() == b"content-length"}
    if len(found) != 1:
        return None
    value = found.pop()
    return int(value) if value.isdigit() and len(value) < 20 else None


def check_status(status: int) -> int:
    """The status of a response of user code.

    Raises:
        AnswerError: HTTP has no such final status.
    """
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise AnswerError(f"response status {status!r} is not between 200 and 599")
    return status


def check_headers(headers: Headers) -> Headers:
    """Headers of user code that may be sent on; hop-by-hop ones and those that the ingress sets are dropped.

    Raises:
        AnswerError: a name of other than token characters, a control character in a value, or a head over 64 KiB.
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
    """Pack a value for a caller that takes Python objects.

    Raises:
        UserCodeError: it cannot be pickled, or is too large.
    """
    try:
        return pickling.dumps(value, what=f"a value of type {type(value).__name__}")
    except (TypeError, ValueError) as error:
        raise UserCodeError(str(error)) from error
