"""An exception of user code, as what travels to its caller."""

from __future__ import annotations

import os
import traceback
from types import TracebackType

from pointsman.exceptions import UserCodeError
from pointsman.model import Reason
from pointsman.replica.answers import dumps
from pointsman.wire.messages import FailureHead

_OUR_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep


def format_traceback(error: BaseException) -> str:
    """The traceback from user code's first line on; our own lines above it say nothing to its author."""
    inner: TracebackType | None = error.__traceback__
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_OUR_FOLDER):
        inner = inner.tb_next
    try:
        return _sendable("".join(traceback.format_exception(type(error), error, inner)))
    except Exception:  # noqa: BLE001 - formatting asks the exception for its text, which is user code
        return f"{type(error).__name__}: (its text cannot be made)"


def describe_failure(error: BaseException, *, with_object: bool) -> tuple[FailureHead, bytes]:
    """The head of a failure, and the pickled exception for callers that take Python objects. Never raises."""
    try:
        text = _sendable(str(error))
    except Exception:  # noqa: BLE001 - an exception's text is user code
        text = "(its text cannot be made)"
    pickled = b""
    if with_object and isinstance(error, Exception) and not isinstance(error, (StopIteration, StopAsyncIteration)):
        # Exits and ends of iterations would do to the caller what they were meant to do over there.
        try:
            pickled = dumps(error)
        except UserCodeError:
            pickled = b""  # the class cannot travel; the caller gets a RemoteError with this head's texts
    name = _sendable(type(error).__name__)
    return FailureHead(Reason.USER_CODE, name, text, traceback=format_traceback(error)), pickled


def _sendable(text: str) -> str:
    """Without lone surrogates, such as file names that are not UTF-8 bring along: no message can hold them."""
    return text.encode("utf-8", "replace").decode()
