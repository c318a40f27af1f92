"""Ray Serve with one replica and its defaults, in Ray's own environment, until SIGTERM. Usage: ray_server.py PORT and

noop [haproxy]               answers "ok"; with HAProxy in throughput mode
sync | async [ONGOING]       streams from a generator, so many requests at once in a replica
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncGenerator, Generator
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
if "haproxy" in sys.argv:
    os.environ |= {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}

import ray  # installed in benchmarks/.peers only
from batchmodel import CHUNK, CHUNKS
from ray import serve
from starlette.responses import StreamingResponse


class Noop:
    def __call__(self, request: Any) -> str:
        return "ok"


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


def main(port: int, kind: str, *more: str) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    folder = os.path.dirname(os.path.abspath(__file__))
    path = {"env_vars": {"PYTHONPATH": folder}}
    ray.init(include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1", runtime_env=path)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    options = {"max_ongoing_requests": int(more[0])} if more and kind != "noop" else {}
    deployment = serve.deployment(**options)({"noop": Noop, "sync": Streams, "async": AsyncStreams}[kind])
    serve.run(deployment.bind(), route_prefix="/model")
    while True:
        signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
