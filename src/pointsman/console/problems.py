"""What is answered where something is wrong: ``application/problem+json`` of RFC 9457. Pure.

After each of these nothing has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pointsman.configfile.problems import BadFileError, CodeError, RefusedError, TakenBackError
from pointsman.exceptions import (
    BackendStartError,
    BusyError,
    ForbiddenError,
    InsufficientResourcesError,
    ServeException,
    StateChangedError,
    TokenError,
    TooLargeError,
    UserCodeError,
)
from pointsman.wire.control import InstanceGoneError
from pointsman.wire.frames import WireError

MEDIA_TYPE = "application/problem+json"
LONGEST = 2000
"""Characters of a detail."""

_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (TokenError, 401),
    (ForbiddenError, 403),
    (BusyError, 409),
    (RefusedError, 409),
    (InsufficientResourcesError, 409),
    (StateChangedError, 412),
    (TooLargeError, 413),
    (BadFileError, 422),
    (CodeError, 422),
    (TakenBackError, 422),
    (BackendStartError, 422),
    (UserCodeError, 422),
    (InstanceGoneError, 503),
    (TimeoutError, 503),
    (WireError, 503),
    (ServeException, 409),
    (KeyError, 404),
    (ValueError, 422),
    (TypeError, 422),
    (OSError, 503),
)
"""The first that fits counts."""


class Problem(Exception):
    """An answer to a request that is not carried out.

    Args:
        status: of HTTP.
        detail: one sentence: what was wrong, with which value, what would be right.
        headers: that belong to it.
        more: further members of the JSON.
    """

    def __init__(
        self, status: int, detail: str, headers: Mapping[str, str] | None = None, more: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = {
            **({"www-authenticate": 'Bearer realm="pointsman"'} if status == 401 else {}),
            **(headers or {}),
        }
        self.more = more or {}

    def as_json(self) -> dict[str, Any]:
        """What is sent."""
        title = HTTPStatus(self.status).phrase
        return {"title": title, "status": self.status, "detail": self.detail, **self.more}


def problem_of(error: Exception) -> Problem:
    """The problem for what a client of the instance has raised.

    An exception that is none of a client's is a mistake of our own: 500, without its text.
    """
    if isinstance(error, Problem):
        return error
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    if status == 500:
        return Problem(500, "the console has made a mistake; its log has the traceback")
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, TimeoutError):
        text = f"the controller does not answer: {text}"
    return Problem(status, text if len(text) <= LONGEST else f"{text[:LONGEST]} ...", more=_more(error))


def _more(error: Exception) -> dict[str, Any]:
    """What else is known, for those who fix it."""
    if isinstance(error, (BadFileError, CodeError)):
        return {"problems": [problem.as_json() for problem in error.problems]}
    if isinstance(error, RefusedError) and error.conflicts:
        return {"conflicts": [conflict.as_json() for conflict in error.conflicts]}
    if isinstance(error, TakenBackError):
        failed = error.operation
        return {"object": failed.object, "traceback": failed.traceback}
    traceback = getattr(error.__cause__, "traceback", "")
    return {"traceback": traceback} if isinstance(error, BackendStartError) and traceback else {}
