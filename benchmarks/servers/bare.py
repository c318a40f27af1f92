"""Bare uvicorn: an ASGI app that reads the body and sends it back, no hop behind it. Usage: bare.py PORT"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    # The settings of Pointsman's own ingress, so that a ratio tells the price of what comes behind it.
    quiet: dict[str, Any] = {"access_log": False, "log_level": "warning"}
    fast: dict[str, Any] = {"loop": "uvloop", "http": "httptools", "ws": "none", "lifespan": "off"}
    plain: dict[str, Any] = {"server_header": False, "proxy_headers": False}
    uvicorn.run(echo, host="127.0.0.1", port=int(sys.argv[1]), **fast, **plain, **quiet)
