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
    return "".join(traceback.format_exception(type(error), error, inner))


def describe_failure(error: BaseException, *, with_object: bool) -> tuple[FailureHead, bytes]:
    """The head of a failure, and the pickled exception for callers that take Python objects."""
    text = format_traceback(error)
    pickled = b""
    if with_object:
        try:
            pickled = dumps(error)
        except UserCodeError:
            pickled = b""  # the class cannot travel; the caller gets a RemoteError with this head's texts
    return FailureHead(Reason.USER_CODE, type(error).__name__, str(error), traceback=text), pickled
