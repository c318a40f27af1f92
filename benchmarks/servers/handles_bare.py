"""Calls of the bare echo, from a loop and from a thread; prints the figures as JSON.

Usage: handles_bare.py CALLS SECONDS
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

import echo
import uvloop

BODY = b"hi"


async def from_loop(path: str, calls: int, seconds: float) -> dict[str, float]:
    bare = echo.FromLoop(await echo.connect(path))

    async def at_once() -> None:
        futures = [bare.call(BODY) for _ in range(calls)]
        for future in futures:
            await future

    rate = 0.0
    end_at = time.monotonic() + seconds
    while time.monotonic() < end_at:
        began = time.perf_counter()
        await at_once()
        rate = max(rate, calls / (time.perf_counter() - began))
    number, began = 0, time.perf_counter()
    while (lasted := time.perf_counter() - began) < seconds:
        await bare.call(BODY)
        number += 1
    return {"async_at_once": rate, "async_one_by_one": number / lasted}


def from_thread(path: str, calls: int, seconds: float) -> dict[str, float]:
    loop = uvloop.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    client = asyncio.run_coroutine_threadsafe(echo.connect(path), loop).result()
    bare = echo.FromThread(client, loop)
    rate = 0.0
    end_at = time.monotonic() + seconds
    while time.monotonic() < end_at:
        began = time.perf_counter()
        futures = [bare.call(BODY) for _ in range(calls)]
        for future in futures:
            future.result()
        rate = max(rate, calls / (time.perf_counter() - began))
    number, began = 0, time.perf_counter()
    while (lasted := time.perf_counter() - began) < seconds:
        bare.call(BODY).result()
        number += 1
    return {"sync_at_once": rate, "sync_one_by_one": number / lasted}


def main(calls: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "echo")
        command = [sys.executable, echo.__file__, path]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout is not None
                server.stdout.readline()
                uvloop.install()
                figures = asyncio.run(from_loop(path, calls, seconds)) | from_thread(path, calls, seconds)
            finally:
                server.terminate()
    print(json.dumps(figures))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
