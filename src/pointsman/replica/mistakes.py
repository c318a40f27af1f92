"""Decides whose fault an exception of user code is: a client's mistake is not an error of the backend (decision 0039).

Two kinds of exceptions are the client's fault: Starlette's ``HTTPException``, by which user code says so, and errors of
reading the body that user code does not catch. All of this runs only after a call has failed, so other calls do not pay
for it. Nothing is imported for it: an exception's class exists only if its module was imported.
"""

from __future__ import annotations

import builtins
import sys
from types import FrameType, TracebackType
from typing import Any

import msgspec
from msgspec.structs import replace

from pointsman.exceptions import ServeException
from pointsman.incoming import Incoming
from pointsman.model import Reason
from pointsman.replica.answers import Answer, check_headers, check_status
from pointsman.replica.jsonform import to_json
from pointsman.request import Request
from pointsman.usercode.misfits import Misfit
from pointsman.usercode.packing import shown
from pointsman.wire import pickling
from pointsman.wire.failures import bad_body_of
from pointsman.wire.messages import FailureHead, failure

#: Most characters of the line about a misfit.
MAX_LINE = 400
BODILESS = frozenset((204, 205, 304))
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", None)  # Python 3.10 has none
MAX_TEXT = 200
"""Most characters of the text that says what is wrong with a body."""


def http_exception(error: BaseException) -> bool:
    """True for Starlette's ``HTTPException`` and its subclasses, such as FastAPI's."""
    module = sys.modules.get("starlette.exceptions")
    return module is not None and isinstance(error, module.HTTPException)


def answer_of(error: Any) -> Answer:
    """The answer for an ``HTTPException``, as the frameworks make it: text for Starlette's, JSON ``{"detail": ...}``
    for FastAPI's and for a detail that is not text.

    Raises:
        AnswerError: the status, the detail or a header is invalid.
        Exception: one of these has a wrong type.
    """
    from starlette.responses import PlainTextResponse, Response

    status, detail, headers = check_status(error.status_code), error.detail, error.headers
    fastapi = sys.modules.get("fastapi.exceptions")
    response: Response
    if status in BODILESS:
        response = Response(status_code=status, headers=headers)
    elif isinstance(detail, str) and not (fastapi is not None and isinstance(error, fastapi.HTTPException)):
        response = PlainTextResponse(detail, status, headers)
    else:
        response = Response(to_json({"detail": detail}), status, headers, "application/json")
    return Answer(int(status), check_headers(response.raw_headers), bytes(response.body))


def misfit_of(misfit: Misfit, incoming: Incoming | None, *, over_http: bool) -> tuple[FailureHead, bytes]:
    """The failure for a caller whose values do not fit the annotations of a typed callable; a ``ValueError`` for the
    caller of a handle."""
    text = str(misfit) if misfit.media_type else f"the request does not fit: {misfit}"
    text = text if len(text) <= MAX_LINE else text[:MAX_LINE] + " ..."
    if over_http and misfit.media_type:
        return failure(Reason.MEDIA_TYPE, "ValueError", text), b""
    if over_http:
        return failure(Reason.INVALID, "ValueError", text), msgspec.json.encode(misfit.details)
    if incoming is None or incoming.kwargs is not None:
        return failure(Reason.REJECTED, "ValueError", text), b""
    # An HTTP request that was passed on by a handle: where that caller lets the error through, its client is told.
    head = replace(failure(Reason.BAD_BODY, "ValueError", text), body_of=incoming.head.request_id)
    return head, pickling.dumps(ValueError(text))


def bad_body(error: BaseException, incoming: Incoming | None, request: Any) -> str:
    """What is wrong with the request's body, if that is why ``error`` was raised; empty otherwise.

    It is if the traceback goes through ``json`` or ``form`` of this very request, or through the form that it returned.
    An error of user code's own ``json.loads`` is user code's fault.

    Args:
        incoming: the call; None if it was not unpacked.
        request: the request object given to user code; None if it was given none.
    """
    if incoming is None:
        return ""
    if _GROUP is not None and isinstance(error, _GROUP):  # such as of `asyncio.TaskGroup`
        texts = [bad_body(member, incoming, request) for member in error.exceptions]
        return texts[0] if all(texts) else ""
    inner = bad_body_of(error)
    if inner is not None:
        return inner[1] if inner[0] == incoming.head.request_id else ""
    multipart = sys.modules.get("starlette.formparsers")
    if isinstance(error, KeyError):
        # A `def` around an `async def` may have two forms: of our request, and of the Starlette request inside.
        # A typed callable may have been given the request among others.
        request = getattr(request, "request", None) or request
        forms = [getattr(owner, "_form", None) for owner in (request, getattr(request, "_whole", None))]
        owners = [frame.f_locals.get("self") for frame in _frames(error.__traceback__)]
        found = any(form is not None and owner is form for form in forms for owner in owners)
        return _shortened(f"the form has no field {shown(*error.args)}") if found else ""
    if not isinstance(error, (ValueError, RecursionError, ServeException)) and not (
        multipart is not None and isinstance(error, multipart.MultiPartException)
    ):
        return ""
    for frame in _frames(error.__traceback__):
        if _is_method_of_request(frame, incoming):
            return _shortened(_text(error, "JSON" if "json" in frame.f_code.co_name else "a form"))
    return ""


def _frames(traceback: TracebackType | None) -> list[FrameType]:
    frames = []
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return frames


def _is_method_of_request(frame: FrameType, incoming: Incoming) -> bool:
    """True if a frame is of a method of a request object made from this call."""
    owner: Any = frame.f_locals.get("self")
    kind = type(owner)  # not `isinstance`, which may run code of an arbitrary object
    if issubclass(kind, Request):
        return bool(owner._incoming is incoming)
    module = sys.modules.get("starlette.requests")
    if module is None or not issubclass(kind, module.HTTPConnection):
        return False
    return vars(owner).get("_incoming") is incoming


def _text(error: BaseException, kind: str) -> str:
    if isinstance(error, RecursionError):
        return f"the body is {kind} that is nested too deep"
    if isinstance(error, UnicodeDecodeError):
        return f"the body is not {kind}: it is not {error.encoding}"
    text = getattr(error, "message", None) or str(error)
    return f"the body is not {kind}: {text}"


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " ..."
