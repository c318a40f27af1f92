"""What an ASGI app and the server that runs it must know of each other, beside the standard."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

DISCONNECT_HOOK = "pointsman.on_disconnect"
"""Key in ``scope["state"]`` of the function that the server calls when the client has disconnected."""
REFUSED = "pointsman.refused"
"""Key in ``scope["state"]`` that marks a request refused for lack of free capacity."""


class BrokenAnswer(Exception):
    """A streamed answer broke; raised out of the app so that the server cuts the connection."""
