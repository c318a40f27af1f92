"""Calls of a bare echo, through Pointsman's handles and through Ray Serve's, made and counted alike.

Each has one async replica that answers two bytes with two bytes. At once: so many callers, each a task (from a loop)
or a future (from a thread), and the time until the last has its answer; repeated, the median counts. One by one: the
next call when the answer of the last is there. A forwarder is an async replica between the caller and the one that
answers. Where a loop is ours to choose it is uvloop's: Pointsman's own processes run on it.

Usage: handles.py echo|pointsman|ray SECONDS, which prints calls/s as JSON; handles.py serve PATH is the bare echo.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from statistics import median
from struct import Struct
from typing import Any, cast

BODY = b"hi"
CALLS_AT_ONCE, CALLS_IN_A_TRIAL, TRIAL_S = 10_000, 1_000, 1.5
ARRAY_BYTES = 10_000_000
LAYOUT = Struct("<IQ")  # size of the body, number of the call


def at_once_rate(at_once: Callable[[int], float], seconds: float) -> float:
    """Calls/s, given what makes so many calls at once and returns the seconds that it took."""
    calls = CALLS_AT_ONCE if seconds > TRIAL_S else CALLS_IN_A_TRIAL
    warm_until = time.monotonic() + min(1.0, seconds)
    while time.monotonic() < warm_until:
        at_once(min(calls, 500))
    rates: list[float] = []
    end_at = time.monotonic() + seconds
    while not rates or time.monotonic() < end_at:
        rates.append(calls / at_once(calls))
    return median(rates)


def one_by_one_rate(call: Callable[[], Any], seconds: float) -> float:
    number, began = 0, time.perf_counter()
    while (lasted_s := time.perf_counter() - began) < seconds:
        call()
        number += 1
    return number / lasted_s


def from_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], Any], seconds: float, name: str) -> dict[str, float]:
    """Calls/s of ``call``, which gives the answer when it is awaited."""

    async def caller() -> None:
        await call()

    async def at_once(calls: int) -> float:
        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(calls)))
        return time.perf_counter() - began

    async def one_by_one() -> float:
        number, began = 0, time.perf_counter()
        while (lasted_s := time.perf_counter() - began) < seconds:
            await call()
            number += 1
        return number / lasted_s

    rate = at_once_rate(lambda calls: loop.run_until_complete(at_once(calls)), seconds)
    return {f"{name}_at_once": rate, f"{name}_one_by_one": loop.run_until_complete(one_by_one())}


def from_thread(call: Callable[[], Any], seconds: float, name: str) -> dict[str, float]:
    """Calls/s of ``call``, which gives something whose ``result()`` is waited for."""

    def at_once(calls: int) -> float:
        began = time.perf_counter()
        for future in [call() for _ in range(calls)]:
            future.result()
        return time.perf_counter() - began

    one_by_one = one_by_one_rate(lambda: call().result(), seconds)
    return {f"{name}_at_once": at_once_rate(at_once, seconds), f"{name}_one_by_one": one_by_one}


def new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class Frames(asyncio.Protocol):
    """The bare echo over a Unix socket: nothing but what any such call needs, a number, a future, a frame each way."""

    def __init__(self) -> None:
        self._rest = b""
        self._number = 0
        self._waiting: dict[int, Callable[[bytes], object]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, body: bytes, resolve: Callable[[bytes], object]) -> None:
        """Send a call whose answer goes to ``resolve``; on the loop."""
        self._number += 1
        self._waiting[self._number] = resolve
        self._transport.write(LAYOUT.pack(len(body), self._number) + body)

    def data_received(self, data: bytes) -> None:
        for number, body in self._cut(data):
            self._waiting.pop(number)(body)

    def _cut(self, data: bytes) -> list[tuple[int, bytes]]:
        data = self._rest + data if self._rest else data
        found, at, end = [], 0, len(data)
        while end - at >= LAYOUT.size:
            size, number = LAYOUT.unpack_from(data, at)
            stop = at + LAYOUT.size + size
            if stop > end:
                break
            found.append((number, data[at + LAYOUT.size : stop]))
            at = stop
        self._rest = data[at:]
        return found


class Echo(Frames):
    def data_received(self, data: bytes) -> None:
        self._transport.write(b"".join(LAYOUT.pack(len(body), number) + body for number, body in self._cut(data)))


def serve(path: str) -> None:
    loop = new_loop()
    loop.run_until_complete(loop.create_unix_server(Echo, path))
    print("ready", flush=True)
    loop.run_forever()


def echo(seconds: float) -> dict[str, float]:
    loop, path = new_loop(), os.path.join(tempfile.mkdtemp(), "echo")
    with subprocess.Popen([sys.executable, __file__, "serve", path], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        _, client = loop.run_until_complete(loop.create_unix_connection(Frames, path))

        def call() -> asyncio.Future[bytes]:
            future: asyncio.Future[bytes] = loop.create_future()
            client.send(BODY, future.set_result)
            return future

        def call_from_thread() -> concurrent.futures.Future[bytes]:
            future: concurrent.futures.Future[bytes] = concurrent.futures.Future()
            loop.call_soon_threadsafe(client.send, BODY, future.set_result)
            return future

        figures = from_loop(loop, call, seconds, "async")
        threading.Thread(target=loop.run_forever, daemon=True).start()
        figures |= from_thread(call_from_thread, seconds, "sync")
        server.terminate()
    return figures


async def answer(request: Any) -> bytes:
    return b"hi"


async def give_back(request: Any) -> Any:
    return await request.body()


class Forwarder:
    def __init__(self) -> None:
        import pointsman as serve

        self.handle = serve.connect().get_handle("answer", sync=False)

    async def __call__(self, request: Any) -> Any:
        return await (await self.handle.remote(await request.body()))


def pointsman(seconds: float) -> dict[str, float]:
    import numpy as np

    import pointsman as serve

    loop, array, figures = new_loop(), np.ones(ARRAY_BYTES, dtype=np.uint8), dict[str, float]()
    there_and_back = 2 * ARRAY_BYTES / 1e9
    limits = {"max_concurrent_queries": 100_000, "max_queued_queries": 100_000}
    backends: dict[str, Callable[..., Any]] = {"answer": answer, "echo": give_back, "forwarder": Forwarder}

    async def on_loop(name: str) -> Any:
        return client.get_handle(name, sync=False)

    with serve.start(http_options={"host": None}) as client:
        for name, code in backends.items():
            client.deploy(name, code, config=limits)
        for name, prefix in (("answer", ""), ("forwarder", "forwarded_"), ("echo", "")):
            handle, sync_handle = loop.run_until_complete(on_loop(name)), client.get_handle(name)

            async def call(body: Any = BODY, handle: Any = handle) -> Any:
                return await (await handle.remote(body))

            def call_from_thread(body: Any = BODY, handle: Any = sync_handle) -> Any:
                return handle.remote(body)

            if name != "echo":
                figures |= from_loop(loop, call, seconds, f"{prefix}async")
                figures |= from_thread(call_from_thread, seconds, f"{prefix}sync")
        by_loop = one_by_one_rate(lambda: loop.run_until_complete(call(array)), seconds)
        by_thread = one_by_one_rate(lambda: call_from_thread(array).result(), seconds)
    return figures | {"async_array": there_and_back * by_loop, "sync_array": there_and_back * by_thread}


def ray_serve(seconds: float) -> dict[str, float]:
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "0"}
    import ray
    from ray import serve

    class Answer:
        async def __call__(self, body: bytes) -> bytes:
            return b"hi"

    class Forwarder:
        def __init__(self, handle: Any) -> None:
            self.handle = handle

        async def __call__(self, body: bytes) -> Any:
            return await self.handle.remote(body)

    few = {"num_cpus": 0.1}  # reserved, not enforced: three replicas fit on two cores
    deployed = serve.deployment(max_ongoing_requests=100_000, ray_actor_options=few)
    ray.init(include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    serve.start(proxy_location="Disabled")
    figures: dict[str, float] = {}
    apps = {"": deployed(Answer).bind(), "forwarded_": deployed(Forwarder).bind(deployed(Answer).bind())}
    for prefix, app in apps.items():
        handle = serve.run(app, name=f"app{prefix}", route_prefix=None)
        figures |= from_thread(lambda handle=handle: handle.remote(BODY), seconds, f"{prefix}sync")  # type: ignore[misc]

        async def call(handle: Any = handle) -> Any:
            return await handle.remote(BODY)

        figures |= from_loop(new_loop(), call, seconds, f"{prefix}async")
    serve.shutdown()
    ray.shutdown()
    return figures


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    print(json.dumps({"echo": echo, "pointsman": pointsman, "ray": ray_serve}[sys.argv[1]](float(sys.argv[2]))))
