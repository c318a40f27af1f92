"""Converts exceptions to messages, and messages back to exceptions. No other module does."""

from __future__ import annotations

import os
import traceback
from types import TracebackType

from pointsman.exceptions import (
    BackendStartError,
    BackpressureError,
    BusyError,
    CallRejectedError,
    DeadlineExceededError,
    ForbiddenError,
    InsufficientResourcesError,
    RemoteError,
    RemoteTraceback,
    ServeException,
    StateChangedError,
    TokenError,
    TooLargeError,
    UserCodeError,
)
from pointsman.limits import MAX_MESSAGE, cut
from pointsman.model import Reason
from pointsman.wire import pickling
from pointsman.wire.frames import Body
from pointsman.wire.messages import FailureHead, failure

_BY_NAME: dict[str, type[Exception]] = {
    cls.__name__: cls
    for cls in (
        BackendStartError,
        BackpressureError,
        BusyError,
        CallRejectedError,
        DeadlineExceededError,
        ForbiddenError,
        InsufficientResourcesError,
        ServeException,
        StateChangedError,
        TokenError,
        TooLargeError,
        UserCodeError,
        ValueError,
        TypeError,
        KeyError,
        TimeoutError,
    )
}


class BadBodyError(CallRejectedError):
    """The body of an HTTP request is not what user code reads it as. The client's fault."""


class InvalidRequestError(CallRejectedError):
    """What an HTTP client sent does not fit the annotations of a typed callable, which has not run.

    Attributes:
        detail: JSON: what does not fit; empty if the body's media type is not read.
    """

    def __init__(self, message: str, detail: bytes) -> None:
        super().__init__(message)
        self.detail = detail


_MARK = "__pointsman_bad_body__"


def bad_body_of(error: BaseException) -> tuple[str, str] | None:
    """For an exception raised by an inner call: the id of the request whose body is invalid, and what is wrong with it.
    None if that is not why it was raised. Only a request that was passed on to the inner call is meant."""
    mark: tuple[str, str] | None = getattr(error, _MARK, None)
    return mark


def describe_error(error: BaseException) -> FailureHead:
    """An exception of one of our own processes as a message, named by its nearest class that can be rebuilt."""
    name = next((cls.__name__ for cls in type(error).__mro__ if cls.__name__ in _BY_NAME), "ServeException")
    reason = Reason.INSUFFICIENT_RESOURCES if isinstance(error, InsufficientResourcesError) else Reason.REJECTED
    return failure(reason, name, str(error))


def failure_to_exception(failure: FailureHead, pickled: Body, *, trusted: bool) -> BaseException:
    """Rebuild an exception from a message.

    Args:
        failure: the message.
        pickled: the pickled exception of user code, or empty; JSON for the reason ``invalid``.
        trusted: True for callers that take Python objects (handles, clients). For HTTP callers nothing is unpickled.
    """
    if failure.reason is Reason.BAD_BODY and not trusted:
        return BadBodyError(failure.text)
    if failure.reason in (Reason.INVALID, Reason.MEDIA_TYPE) and not trusted:
        return InvalidRequestError(failure.text, bytes(pickled) if failure.reason is Reason.INVALID else b"")
    if failure.reason is Reason.BAD_BODY:
        error = _user_exception(failure, pickled)
        setattr(error, _MARK, (failure.body_of, failure.text))
        return error
    if failure.reason is Reason.USER_CODE:
        if not trusted:
            return UserCodeError(f"{failure.error}: {failure.text}", traceback=failure.traceback)
        return _user_exception(failure, pickled)
    error = _BY_NAME.get(failure.error, ServeException)(failure.text)
    if failure.traceback:
        error.__cause__ = _user_exception(failure, pickled)
    return error


def _user_exception(failure: FailureHead, pickled: Body) -> BaseException:
    cause = RemoteTraceback(failure.traceback)
    if pickled:
        try:
            error = pickling.loads(pickled)
        except Exception:  # noqa: BLE001 - user classes may fail to unpickle in any way; RemoteError replaces them
            error = None
        if isinstance(error, BaseException):
            error.__cause__ = cause
            return error
    name = failure.error
    stand_in = RemoteError(f"{name}: {failure.text}", class_name=name, traceback=failure.traceback)
    stand_in.__cause__ = cause
    return stand_in


_OUR_FOLDERS = (
    os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "replica") + os.sep,
    "pointsman/replica/",  # compiled modules name their files by the way from the import path
)


def format_traceback(error: BaseException) -> str:
    """The traceback as text, cut to the limit. Frames of the replica above user code are left out, since they mean
    nothing to its author."""
    inner: TracebackType | None = error.__traceback__
    while inner is not None and inner.tb_frame.f_code.co_filename.startswith(_OUR_FOLDERS):
        inner = inner.tb_next
    try:
        return cut("".join(traceback.format_exception(type(error), error, inner)))
    except Exception:  # noqa: BLE001 - formatting calls the exception's `__str__`, which is user code
        return f"{type(error).__name__}: (its text cannot be made)"


def describe_failure(error: BaseException, *, with_object: bool, portable: bool = False) -> tuple[FailureHead, bytes]:
    """An exception of user code as a message. Never raises.

    Args:
        with_object: whether the caller takes Python objects, and gets the exception itself.
        portable: whether to pickle it as :class:`~pointsman.wire.pickling.Portable`, without its constructor.

    Returns:
        The head, and the pickled exception or nothing. Both always fit a frame.
    """
    try:
        text = cut(str(error))
    except Exception:  # noqa: BLE001 - an exception's text is user code
        text = "(its text cannot be made)"
    pickled = b""
    if with_object and isinstance(error, Exception) and not isinstance(error, (StopIteration, StopAsyncIteration)):
        # Exits and ends of iterations are not sent as objects: they would end the caller's process, or its loop.
        try:
            pickled = pickling.dumps(pickling.Portable(error) if portable else error)
        except (TypeError, ValueError):
            pickled = b""
        if len(pickled) > MAX_MESSAGE:
            pickled = b""
        # If its class cannot be pickled, or it is too large, the caller gets a RemoteError with these texts instead.
    return failure(Reason.USER_CODE, type(error).__name__, text, format_traceback(error)), pickled
