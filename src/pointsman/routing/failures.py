"""A failure that came over the wire, as the exception that the caller gets."""

from __future__ import annotations

from pointsman import objects
from pointsman.exceptions import (
    BackendStartError,
    BackpressureError,
    CallRejectedError,
    DeadlineExceededError,
    InsufficientResourcesError,
    RemoteError,
    RemoteTraceback,
    ServeException,
    TooLargeError,
    UserCodeError,
)
from pointsman.model import Reason
from pointsman.wire.frames import Body
from pointsman.wire.messages import FailureHead

_BY_NAME: dict[str, type[Exception]] = {
    cls.__name__: cls
    for cls in (
        BackendStartError,
        BackpressureError,
        CallRejectedError,
        DeadlineExceededError,
        InsufficientResourcesError,
        ServeException,
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


_MARK = "__pointsman_bad_body__"


def bad_body_of(error: BaseException) -> tuple[str, str] | None:
    """The id of the request whose body is at fault, and the fault, of an exception that an inner call has raised; None
    where no body is. The inner call was given that request as it came."""
    told: tuple[str, str] | None = getattr(error, _MARK, None)
    return told


def failure_to_exception(failure: FailureHead, pickled: Body, *, trusted: bool) -> BaseException:
    """Rebuild what was raised.

    Args:
        failure: what the peer said.
        pickled: the user's exception, or empty.
        trusted: True for callers that take Python objects (handles, clients); HTTP callers never unpickle.
    """
    if failure.reason is Reason.BAD_BODY and not trusted:
        return BadBodyError(failure.text)
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
            error = objects.loads(pickled)
        except Exception:  # noqa: BLE001 - user classes may fail to rebuild in any way; RemoteError stands in
            error = None
        if isinstance(error, BaseException):
            error.__cause__ = cause
            return error
    name = failure.error
    stand_in = RemoteError(f"{name}: {failure.text}", class_name=name, traceback=failure.traceback)
    stand_in.__cause__ = cause
    return stand_in
