"""Names that code for Ray Serve 1.x imports from its module ``utils``."""

from __future__ import annotations

from typing import Any

from pointsman.incoming import Incoming
from pointsman.request import Request


class _SentByHandles(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        incoming = getattr(instance, "_incoming", None)
        return isinstance(incoming, Incoming) and incoming.kwargs is not None


class ServeRequest(Request, metaclass=_SentByHandles):
    """The class of requests from handles in Ray Serve 1.x, for ``isinstance(request, ServeRequest)`` only.

    The check is True for a call of a handle and False for a request over HTTP, in sync and in async callables. No
    object has this class.
    """
