"""The context (``contextvars``) of user code: each call and each batch runs in a copy of what the constructor left, so
that no call sees what another one has set. And the thread of sync user code.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, Protocol

from pointsman.replica.outcomes import as_settable, outcome_of


class UserContext:
    """Contextvars as the constructor of user code, and later ``reconfigure``, left them.

    Attributes:
        spawn: calls a function in this context. Only for functions that do no more than copy the current context, such
            as a loop's ``create_task``.
    """

    spawn: Callable[..., Any]

    def __init__(self) -> None:
        self.keep(contextvars.copy_context())

    def copy(self) -> Context:
        """A context for one call or batch, whichever thread or loop it runs on."""
        context = self._kept.copy()
        if self._with_decimal:
            context.run(_own_decimal_context)
        return context

    def keep(self, context: Context) -> None:
        """Run later calls in copies of this context, which must not be entered any more."""
        self._kept = context
        # `decimal` changes its context object in place, so two calls must not share one.
        self._with_decimal = any(variable.name == "decimal_context" for variable in context)
        # hot: bound once; one method of ours in between was 5 % of each call of async code.
        self.spawn = self._spawn_copy if self._with_decimal else context.run

    def _spawn_copy(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.copy().run(function, *args)

    def run(self, function: Callable[[], Any]) -> Any:
        """Call a function in a copy of the context, and keep that copy if it does not raise."""
        context = self.copy()
        value = context.run(function)
        self.keep(context)
        return value

    def clear(self) -> None:
        """Release the objects in the context."""
        self.keep(Context())


async def call_user_method(
    context: UserContext, function: Callable[[], Any], run: Callable[[Callable[[], Any]], Awaitable[Any]]
) -> Context:
    """Call a method of user code outside of a request, and await its result. Returns the context it ran in.

    Args:
        context: the method runs in a copy of it.
        run: calls a function where user code runs.
    """
    copy = context.copy()
    result = await run(lambda: copy.run(function))
    if not inspect.isawaitable(result):
        return copy

    async def finish() -> tuple[Context, BaseException | None]:
        _, error = await outcome_of(result)
        return contextvars.copy_context(), error

    copy, error = await copy.run(asyncio.get_running_loop().create_task, finish())
    if error is not None:
        raise as_settable(error)
    return copy


def _own_decimal_context() -> None:
    decimal = sys.modules.get("decimal")
    if decimal is not None:
        decimal.setcontext(decimal.getcontext().copy())


class Thread(Protocol):
    """What an executor needs of its thread."""

    def start(self) -> None: ...

    def join(self) -> None: ...


MakeThread = Callable[[Callable[[], None]], Thread]


def own_thread(main: Callable[[], None]) -> Thread:
    """A new thread for an executor. A daemon: user code that never returns must not keep the process from exiting."""
    return threading.Thread(target=main, name="pointsman-sync", daemon=True)
