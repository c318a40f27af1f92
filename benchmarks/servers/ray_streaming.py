"""Ray Serve with one replica that streams, in Ray's own environment, until SIGTERM.

Usage: ray_streaming.py PORT sync|async [MAX_ONGOING_REQUESTS]; all else is as Ray Serve has it by default.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncGenerator, Generator
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray  # installed in benchmarks/.peers only
from batchmodel import CHUNK, CHUNKS
from ray import serve
from starlette.responses import StreamingResponse


class Streams:
    def chunks(self) -> Generator[bytes, None, None]:
        for _ in range(CHUNKS):
            yield CHUNK

    async def __call__(self, request: Any) -> StreamingResponse:
        return StreamingResponse(self.chunks(), media_type="text/plain")


class AsyncStreams:
    async def chunks(self) -> AsyncGenerator[bytes, None]:
        for _ in range(CHUNKS):
            yield CHUNK

    async def __call__(self, request: Any) -> StreamingResponse:
        return StreamingResponse(self.chunks(), media_type="text/plain")


def main(port: int, flavour: str, *ongoing: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    folder = os.path.dirname(os.path.abspath(__file__))
    ray.init(
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        runtime_env={"env_vars": {"PYTHONPATH": folder}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    options = {"max_ongoing_requests": int(ongoing[0])} if ongoing else {}
    deployment = serve.deployment(**options)(AsyncStreams if flavour == "async" else Streams)
    serve.run(deployment.bind(), route_prefix="/stream")
    while True:
        signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
