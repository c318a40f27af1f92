"""An exception of user code, as what travels to its caller."""

from __future__ import annotations

import os
import traceback
from types import TracebackType

from pointsman.exceptions import UserCodeError
from pointsman.limits import MAX_MESSAGE, cut
from pointsman.model import Reason
from pointsman.objects import Portable
from pointsman.replica.answers import dumps
from pointsman.replica.mistakes import http_exception
from pointsman.wire.messages import FailureHead, failure

_OUR_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep


def format_traceback(error: BaseException) -> str:
    """The traceback from user code's first line on, cut where it is too long; our own lines above it say nothing to its
    author."""
    inner: TracebackType | None = error.__traceback__
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_OUR_FOLDER):
        inner = inner.tb_next
    try:
        return cut("".join(traceback.format_exception(type(error), error, inner)))
    except Exception:  # noqa: BLE001 - formatting asks the exception for its text, which is user code
        return f"{type(error).__name__}: (its text cannot be made)"


def describe_failure(error: BaseException, *, with_object: bool) -> tuple[FailureHead, bytes]:
    """The head of a failure, and the pickled exception for callers that take Python objects. Both always fit a frame.
    Never raises."""
    try:
        text = cut(str(error))
    except Exception:  # noqa: BLE001 - an exception's text is user code
        text = "(its text cannot be made)"
    pickled = b""
    if with_object and isinstance(error, Exception) and not isinstance(error, (StopIteration, StopAsyncIteration)):
        # Exits and ends of iterations would do to the caller what they were meant to do over there.
        try:
            pickled = dumps(Portable(error) if http_exception(error) else error)
        except UserCodeError:
            pickled = b""
        if len(pickled) > MAX_MESSAGE:
            pickled = b""
        # Without it, since its class cannot travel or it is too large, the caller gets a RemoteError with these texts.
    return failure(Reason.USER_CODE, type(error).__name__, text, format_traceback(error)), pickled
