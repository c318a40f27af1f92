"""The HTTP servers: one process, or several that share a listening socket. In the order of a request:

__main__     the process: connection to the controller, first table, shutdown
firsttable   picks the routing table that a new process starts with
server       accepts connections (uvicorn); service is what they share
protocol     one connection: reads, gives requests to the app, has timers; states says what it may be doing
reading, framing   split the incoming bytes into heads and bodies before they are parsed, within limits (pure)
app          route, method, limits, body, call, answer
codec        HTTP request to call, reply to HTTP answer
bodylimits   deadlines of bodies, pauses after refusals
exchange     one request: counted, logged, traced
sending      writes an answer in one piece
cycle        a request through ASGI, where there are middlewares, large or late bodies, or streams
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _Package(types.ModuleType):
    """This package, which is also the decorator that Ray Serve's users know by its name."""

    def __call__(self, app: Any) -> Any:
        """The same as :func:`pointsman.asgi`."""
        from pointsman.usercode.mounting import asgi

        return asgi(app)


sys.modules[__name__].__class__ = _Package
