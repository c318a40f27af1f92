"""What code for 1.x imports from a module of this name."""

from __future__ import annotations

from typing import Any

from pointsman.incoming import Incoming
from pointsman.request import Request


class _SentByHandles(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        incoming = getattr(instance, "_incoming", None)
        return isinstance(incoming, Incoming) and incoming.kwargs is not None


class ServeRequest(Request, metaclass=_SentByHandles):
    """The request of a handle call, as 1.x called it: ``isinstance(request, ServeRequest)`` tells it from one that came
    over HTTP, in ``def`` and in ``async def`` callables. Users make none."""
