"""The HTTP servers: one process, or several that share a listening socket. In the order of a request:

__main__     the process: connection to the controller, first table, shutdown
firsttable   picks the routing table that a new process starts with
server       accepts connections (uvicorn); service is what they share
protocol     one connection: reads, gives requests to the app, has timers; states says what it may be doing
reading, framing   split the incoming bytes into heads and bodies before they are parsed, within limits (pure)
door         asks each request for host, origin and API key, where that is wanted (pure); shares has what the keys have
             used up on this node, renewal reads files of keys and certificates again
app          route, method, limits, body, call, answer; system is what is below /-/, openapi its document (pure)
codec        HTTP request to call, reply to HTTP answer
bodylimits   deadlines of bodies, pauses after refusals
passing      bodies and sockets of apps, which stream both ways; sockets is one WebSocket at the edge
exchange     one request: counted, logged, traced
sending      writes an answer in one piece
cycle        a request through ASGI, where there are middlewares, large or late bodies, or streams; asgi is what an app
             and its server must know of each other
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
