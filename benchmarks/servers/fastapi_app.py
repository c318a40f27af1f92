"""One FastAPI app: under bare uvicorn, or mounted in Pointsman, until SIGTERM. Usage: fastapi_app.py PORT and

uvicorn             with the settings of Pointsman's own ingress
mounted [REPLICAS]  one replica by default
"""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncGenerator
from typing import Any

from batchmodel import CHUNK, CHUNKS
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, StreamingResponse

import pointsman as serve


def make(prefix: str = "") -> FastAPI:
    app = FastAPI()

    @app.post(f"{prefix}/noop")
    async def noop() -> PlainTextResponse:
        return PlainTextResponse("ok")

    @app.post(f"{prefix}/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> AsyncGenerator[bytes, None]:
            for _ in range(CHUNKS):
                yield CHUNK

        return StreamingResponse(chunks(), media_type="text/plain")

    return app


def main(port: int, how: str, replicas: int = 1) -> None:
    if how == "uvicorn":
        import uvicorn

        quiet: dict[str, Any] = {"access_log": False, "log_level": "warning"}
        fast: dict[str, Any] = {"loop": "uvloop", "http": "httptools", "ws": "none"}
        uvicorn.run(
            make("/model"), host="127.0.0.1", port=port, server_header=False, proxy_headers=False, **fast, **quiet
        )
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with serve.start(http_options={"port": port}) as client:
        client.create_backend("app", serve.asgi(make), config={"num_replicas": replicas})
        client.create_endpoint("app", backend="app", route="/model")
        while True:
            signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
