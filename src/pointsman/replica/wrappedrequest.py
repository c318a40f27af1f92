"""The request of a ``def`` that stands around an ``async def``: both read it, each in its own way."""

from __future__ import annotations

import asyncio
from typing import Any

from pointsman.request import Request


class WrappedRequest(Request):
    """What ``body``, ``json``, ``form``, ``close`` and ``stream`` give is a value where no event loop runs, and has to
    be awaited (``stream``: iterated with ``async for``) where one does: the first is the decorator, the second what it
    wraps. Both see one ``scope`` and one ``state``."""

    __slots__ = ()  # and no name of a slot of `Request` below: it would hide the slot

    def body(self) -> Any:
        return self._starlette().body() if _loop_runs() else super().body()

    def json(self) -> Any:
        return self._starlette().json() if _loop_runs() else super().json()

    def form(self, *args: Any, **kwargs: Any) -> Any:
        return self._starlette().form(*args, **kwargs) if _loop_runs() else super().form(*args, **kwargs)

    def stream(self) -> Any:
        return self._starlette().stream() if _loop_runs() else super().stream()

    def close(self) -> Any:
        super().close()
        return self._starlette().close() if _loop_runs() else None


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
