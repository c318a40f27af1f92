"""Pointsman with one replica for one scenario of ``batching.py``, until SIGTERM.

Usage: pointsman_batching.py PORT SCENARIO

wait             /model in batches of at most 32, batch_wait_timeout 0
wait-unlocked    the same with a model that does not hold the interpreter's lock
target           the same with target_latency_ms 50
overload         as wait, with max_queued_queries 100
overload-single  one item at a time, with max_queued_queries 60: with the 100 in the replica less than a second of work
stream-sync      /stream: 1,000 chunks from a generator
stream-async     the same from an async generator
"""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, NamedTuple

from batchmodel import CHUNK, CHUNKS, MAX_BATCH, compute, compute_unlocked

import pointsman as serve


@serve.accept_batch
def model(requests: list[Any]) -> list[str]:
    compute(len(requests))
    return ["ok"] * len(requests)


@serve.accept_batch
def unlocked_model(requests: list[Any]) -> list[str]:
    compute_unlocked(len(requests))
    return ["ok"] * len(requests)


def single(request: Any) -> str:
    compute(1)
    return "ok"


def stream(request: Any) -> Generator[bytes, None, None]:
    for _ in range(CHUNKS):
        yield CHUNK


async def async_stream(request: Any) -> AsyncGenerator[bytes, None]:
    for _ in range(CHUNKS):
        yield CHUNK


class Scenario(NamedTuple):
    function: Callable[..., Any]
    route: str
    config: dict[str, Any]


BATCHES = {"max_batch_size": MAX_BATCH}
SCENARIOS = {
    "wait": Scenario(model, "/model", {**BATCHES, "batch_wait_timeout": 0}),
    "wait-unlocked": Scenario(unlocked_model, "/model", {**BATCHES, "batch_wait_timeout": 0}),
    "target": Scenario(model, "/model", {**BATCHES, "target_latency_ms": 50}),
    "overload": Scenario(model, "/model", {**BATCHES, "batch_wait_timeout": 0, "max_queued_queries": 100}),
    "overload-single": Scenario(single, "/model", {"max_queued_queries": 60}),
    "stream-sync": Scenario(stream, "/stream", {}),
    "stream-async": Scenario(async_stream, "/stream", {}),
}


def main(port: int, name: str) -> None:
    scenario = SCENARIOS[name]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with serve.start(http_options={"port": port}) as client:
        client.create_backend("backend", scenario.function, config=scenario.config)
        client.create_endpoint("endpoint", backend="backend", route=scenario.route, methods=["POST"])
        while True:
            signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
