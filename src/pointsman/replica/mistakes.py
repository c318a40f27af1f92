"""Whose mistake an exception of user code is: what a client has done wrong is no error of the backend.

Two kinds of exceptions are the client's: Starlette's ``HTTPException``, by which user code says so, and what reading
the body raises where user code lets it through. Asked when a call has failed, so that nothing of this is paid for by
calls that do not. Nothing is imported for the sake of the question: who raised a class has imported it.
"""

from __future__ import annotations

import builtins
import sys
from types import FrameType, TracebackType
from typing import Any

from pointsman.exceptions import ServeException
from pointsman.incoming import Incoming
from pointsman.replica.answers import Answer, check_headers, check_status
from pointsman.replica.jsonform import to_json
from pointsman.request import Request
from pointsman.usercode.packing import shown
from pointsman.wire.failures import bad_body_of

BODILESS = frozenset((204, 205, 304))
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", None)  # Python 3.10 has none
MAX_TEXT = 200
"""Of what a client is told of its body, in characters."""


def http_exception(error: BaseException) -> bool:
    """Whether an exception is Starlette's ``HTTPException`` or, as FastAPI's, a kind of it."""
    module = sys.modules.get("starlette.exceptions")
    return module is not None and isinstance(error, module.HTTPException)


def answer_of(error: Any) -> Answer:
    """The answer that an ``HTTPException`` stands for: that of Starlette is text; that of FastAPI, and a detail that is
    no text, is JSON, ``{"detail": ...}``.

    Raises:
        AnswerError: the status, the detail or a header is not fit to be sent.
        Exception: whatever a wrong type of these gives rise to.
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


def bad_body(error: BaseException, incoming: Incoming | None, request: Any) -> str:
    """What is wrong with the body of this very request, where that is what an exception says; empty where it is not.

    An exception belongs to a request when it has come out of that request's ``json`` or ``form``, or out of the form
    that it gave: a ``json.loads`` of user code's own is user code's own affair.

    Args:
        incoming: the call; None when it was not unpacked.
        request: what user code was given for it, if it was.
    """
    if incoming is None:
        return ""
    if _GROUP is not None and isinstance(error, _GROUP):  # such as of `asyncio.TaskGroup`
        texts = [bad_body(member, incoming, request) for member in error.exceptions]
        return texts[0] if all(texts) else ""
    told = bad_body_of(error)
    if told is not None:
        return told[1] if told[0] == incoming.head.request_id else ""
    multipart = sys.modules.get("starlette.formparsers")
    if isinstance(error, KeyError):
        # A `def` around an `async def` reads one form by itself, and the other by way of Starlette's request.
        forms = [getattr(owner, "_form", None) for owner in (request, getattr(request, "_whole", None))]
        owners = [frame.f_locals.get("self") for frame in _frames(error.__traceback__)]
        found = any(form is not None and owner is form for form in forms for owner in owners)
        return _cut(f"the form has no field {shown(*error.args)}") if found else ""
    if not isinstance(error, (ValueError, RecursionError, ServeException)) and not (
        multipart is not None and isinstance(error, multipart.MultiPartException)
    ):
        return ""
    for frame in _frames(error.__traceback__):
        if _reads(frame, incoming):
            return _cut(_text(error, "JSON" if "json" in frame.f_code.co_name else "a form"))
    return ""


def _frames(traceback: TracebackType | None) -> list[FrameType]:
    frames = []
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    return frames


def _reads(frame: FrameType, incoming: Incoming) -> bool:
    """Whether a frame is of a method of a request that was made of a call."""
    owner: Any = frame.f_locals.get("self")
    kind = type(owner)  # `isinstance` would ask the object for its class, and it may be anything
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


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " ..."
