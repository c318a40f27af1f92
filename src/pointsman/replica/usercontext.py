"""The context (``contextvars``) in which user code runs: each call and each batch in a copy of what its constructor
left, so that no call finds what another one has set."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable
from contextvars import Context
from typing import Any


class UserContext:
    """What the constructor of user code, and since then ``reconfigure``, has set.

    Attributes:
        spawn: calls a function, such as a loop's ``create_task``, that does no more than copy the context it runs in.
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
        """From now on calls run in copies of this context. It must not be entered any more."""
        self._kept = context
        # decimal changes its context in place, so those of two calls must be two objects.
        self._with_decimal = any(variable.name == "decimal_context" for variable in context)
        # For each call of async code: one method of ours in between was 5 % of it.
        self.spawn = self._spawn_copy if self._with_decimal else context.run

    def _spawn_copy(self, function: Callable[..., Any], *args: Any) -> Any:
        return self.copy().run(function, *args)

    def run(self, function: Callable[[], Any]) -> Any:
        """Call a function in a copy, which is kept when it returns."""
        context = self.copy()
        value = context.run(function)
        self.keep(context)
        return value

    def let_go(self) -> None:
        """Forget what was kept."""
        self.keep(Context())


def _own_decimal_context() -> None:
    decimal = sys.modules.get("decimal")
    if decimal is not None:
        decimal.setcontext(decimal.getcontext().copy())
