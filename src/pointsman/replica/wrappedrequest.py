"""The request of a ``def`` that stands around an ``async def``: both read it, each in its own way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pointsman.incoming import Incoming
from pointsman.request import Request, async_request

if TYPE_CHECKING:
    from starlette.requests import Request as StarletteRequest


class WrappedRequest(Request):
    """What ``body``, ``json``, ``form`` and ``stream`` give is a value where no event loop runs, and has to be awaited
    (``stream``: iterated with ``async for``) where one does: the first is the decorator, the second what it wraps."""

    __slots__ = ("_awaited",)

    def __init__(self, incoming: Incoming) -> None:
        super().__init__(incoming)
        self._awaited: StarletteRequest | None = None

    def body(self) -> Any:
        return self._for_await().body() if _loop_runs() else super().body()

    def json(self) -> Any:
        return self._for_await().json() if _loop_runs() else super().json()

    def form(self, *args: Any, **kwargs: Any) -> Any:
        return self._for_await().form(*args, **kwargs) if _loop_runs() else super().form(*args, **kwargs)

    def stream(self) -> Any:
        return self._for_await().stream() if _loop_runs() else self._whole()

    def _whole(self) -> Iterator[Any]:
        yield super().body()

    def _for_await(self) -> StarletteRequest:
        if self._awaited is None:
            self._awaited = async_request(self._incoming)
        return self._awaited


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
