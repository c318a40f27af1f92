"""Calls of Pointsman's handles; prints the figures as JSON.

Usage: handles_pointsman.py CALLS SECONDS
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import handleload
import numpy as np

import pointsman as serve

LIMITS = {"max_concurrent_queries": 100_000, "max_queued_queries": 100_000}
ARRAY_BYTES = 10_000_000


async def answer(request: Any) -> bytes:
    return b"hi"


async def give_back(request: Any) -> Any:
    return await request.body()


class Forwarder:
    """Stands between the caller and ``answer``."""

    def __init__(self) -> None:
        self.handle = serve.connect().get_handle("answer", sync=False)

    async def __call__(self, request: Any) -> Any:
        return await (await self.handle.remote(await request.body()))


async def from_loop(client: serve.Client, endpoint: str, plan: handleload.Plan, name: str) -> dict[str, float]:
    handle = client.get_handle(endpoint, sync=False)

    async def call() -> Any:
        return await (await handle.remote(handleload.BODY))

    return await handleload.from_loop(call, plan, name)


async def array_from_loop(client: serve.Client, plan: handleload.Plan) -> dict[str, float]:
    handle, array = client.get_handle("echo", sync=False), np.ones(ARRAY_BYTES, dtype=np.uint8)
    await (await handle.remote(array))
    number, began = 0, time.perf_counter()
    while (lasted_s := time.perf_counter() - began) < plan.seconds:
        assert len(await (await handle.remote(array))) == ARRAY_BYTES
        number += 1
    return {"async_array_gb_s": 2 * number * ARRAY_BYTES / lasted_s / 1e9}


def array_from_thread(client: serve.Client, plan: handleload.Plan) -> dict[str, float]:
    handle, array = client.get_handle("echo"), np.ones(ARRAY_BYTES, dtype=np.uint8)
    handle.remote(array).result()
    number, began = 0, time.perf_counter()
    while (lasted_s := time.perf_counter() - began) < plan.seconds:
        assert len(handle.remote(array).result()) == ARRAY_BYTES
        number += 1
    return {"sync_array_gb_s": 2 * number * ARRAY_BYTES / lasted_s / 1e9}


def main(plan: handleload.Plan) -> None:
    client = serve.start(http_options={"host": None})
    backends: dict[str, Callable[..., Any]] = {"answer": answer, "echo": give_back, "forwarder": Forwarder}
    for name, code in backends.items():
        client.create_backend(name, code, config=LIMITS)
        client.create_endpoint(name, backend=name)
    figures: dict[str, float] = {}
    for endpoint, prefix in (("answer", ""), ("forwarder", "forwarded_")):
        handle = client.get_handle(endpoint)
        figures |= handleload.run(from_loop(client, endpoint, plan, f"{prefix}async"))
        figures |= handleload.from_thread(
            lambda handle=handle: handle.remote(handleload.BODY),  # type: ignore[misc]
            lambda future: future.result(),
            plan,
            f"{prefix}sync",
        )
    figures |= handleload.run(array_from_loop(client, plan)) | array_from_thread(client, plan)
    client.shutdown()
    print(json.dumps(figures))


if __name__ == "__main__":
    main(handleload.Plan(int(sys.argv[1]), float(sys.argv[2])))
