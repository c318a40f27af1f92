"""The request of a ``def`` that stands around an ``async def``: both read it, each in its own way."""

from __future__ import annotations

import asyncio
from typing import Any

from pointsman.request import Request


class WrappedRequest(Request):
    """What ``body``, ``json``, ``form``, ``stream`` and ``close`` give is a value where no event loop runs. Where one
    does it has to be awaited (``stream``: iterated with ``async for``). The first is the decorator, the second what it
    wraps."""

    __slots__ = ()

    def body(self) -> Any:
        return self._starlette().body() if _loop_runs() else super().body()

    def json(self) -> Any:
        return self._starlette().json() if _loop_runs() else super().json()

    def form(self, *args: Any, **kwargs: Any) -> Any:
        return self._starlette().form(*args, **kwargs) if _loop_runs() else super().form(*args, **kwargs)

    def stream(self) -> Any:
        return self._starlette().stream() if _loop_runs() else super().stream()

    def close(self) -> Any:
        return self._starlette().close() if _loop_runs() else super().close()


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
