"""The exceptions of Pointsman.

    Exception
    └── ServeException                 base; raised itself if no narrower class fits
        ├── InsufficientResourcesError   the operator asked for more than there is
        ├── BackendStartError            user code could not be brought up
        ├── BusyError                    another apply is changing that; try again later
        ├── StateChangedError            the state has changed since it was read
        ├── BackpressureError            too many calls wait; try again later        HTTP 503
        ├── ReplicaDiedError             the replica died after hand-off             HTTP 502
        ├── DeadlineExceededError        the call's deadline passed                  HTTP 504
        ├── CallRejectedError            the call cannot be carried out as asked     HTTP 400
        ├── UserCodeError                user code raised, or gave no usable answer  HTTP 500
        │   └── AnswerError                what it gave cannot be sent by HTTP          HTTP 500
        ├── TooLargeError                what was to be sent is over its limit       HTTP 413
        └── RemoteError                  stands in for a user exception whose class
                                         cannot be rebuilt at the caller             HTTP 500

Bad arguments raise the built-in ``ValueError``, ``TypeError`` or ``KeyError``: the author of the call is at fault.
"""

from __future__ import annotations


class ServeException(Exception):
    """Base of Pointsman's exceptions; raised itself if no narrower class fits."""


RayServeException = ServeException
"""Name of :class:`ServeException` in Ray Serve 1.x."""


class InsufficientResourcesError(ServeException):
    """Strict resources cannot be met; the text names what was asked and what is free. The operator's fault."""


class BackendStartError(ServeException):
    """A backend's replicas did not come up; ``__cause__`` is the user's exception with its remote traceback."""


class BusyError(ServeException):
    """An apply of a configuration file is changing that; the text says whose, and since when. Nobody's fault: try again
    once it has ended."""


class StateChangedError(ServeException):
    """The state is not the one that the change was planned for; the text names both versions. Nobody's fault: read the
    state and plan again."""


class BackpressureError(ServeException):
    """The queue is full, so the call was never started. Nobody's fault: capacity.

    Args:
        message: what happened, in one sentence.

    Attributes:
        retry_after: seconds after which free capacity is expected, at least 1.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ReplicaDiedError(ServeException):
    """The replica died after the call was handed to it; the call may have run. Usually user code's fault."""


class DeadlineExceededError(ServeException, TimeoutError):
    """The call's deadline passed.

    Args:
        message: what happened, in one sentence.

    Attributes:
        started: whether the call had been handed to a replica (HTTP 504) or was still waiting (HTTP 503).
        retry_after: of one that was waiting: seconds after which a replica is expected, at least 1.
    """

    def __init__(self, message: str, *, started: bool = True, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.started = started
        self.retry_after = retry_after


class CallRejectedError(ServeException):
    """The call names a method that is missing or not open to callers. The caller's fault."""


class UserCodeError(ServeException):
    """User code raised, or returned something that is no answer. The model author's fault.

    Args:
        message: what happened, in one sentence.

    Attributes:
        traceback: the remote traceback as text, for the log; empty when there is none.
    """

    def __init__(self, message: str, *, traceback: str = "") -> None:
        super().__init__(message)
        self.traceback = traceback


class AnswerError(UserCodeError):
    """What user code gave as its answer cannot be sent by HTTP. The model author's fault.

    HTTP clients see the text. It is written by Pointsman, says what would be right, and contains names of types and
    fields only, and no values.

    Args:
        message: what happened, in one sentence.
    """


class TokenError(ServeException):
    """A console's user has shown no token, or one that is unknown, revoked or has ended. The user's fault."""


class ForbiddenError(ServeException):
    """Whoever has sent a command may not do that. The user's fault."""


class TooLargeError(ServeException, ValueError):
    """A message is over its limit, and was not sent; the text names size and limit. It is a ValueError as well, since
    usually the caller is at fault."""


class RemoteError(ServeException):
    """Stands in for a user exception whose class cannot be imported here, or whose object cannot be unpickled.

    Args:
        message: what happened, in one sentence.

    Attributes:
        class_name: name of the original class.
        traceback: the remote traceback as text.
    """

    def __init__(self, message: str, *, class_name: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.class_name = class_name
        self.traceback = traceback


class RemoteTraceback(ServeException):
    """Set as ``__cause__`` of a re-raised exception, so that the remote traceback is printed above it."""

    def __str__(self) -> str:
        return f"\n\n{self.args[0]}" if self.args else ""
