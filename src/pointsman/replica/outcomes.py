"""What user code returned or raised outside of a call, in a form that asyncio can carry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any


async def outcome_of(awaitable: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """The result or exception of an awaitable of user code, as values: SystemExit would end the loop if a task raised
    it. Cancellations are raised."""
    try:
        return await awaitable, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - user code: raised again by the caller
        return None, error


class UserExit(Exception):
    """Wraps SystemExit, KeyboardInterrupt and the like for an asyncio future: these would end the loop, and a future
    does not accept StopIteration."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.error = error


def as_settable(error: BaseException) -> Exception:
    """An error of user code as an exception that can be set on an asyncio future."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = UserExit(error).with_traceback(error.__traceback__)
    wrapped.__cause__ = error
    return wrapped


class StillRunningError(TimeoutError):
    """``reconfigure`` was not called, since requests ran for too long. Nothing has changed."""
