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

import echo
import handleload
import uvloop


async def from_loop(path: str, plan: handleload.Plan) -> dict[str, float]:
    bare = echo.FromLoop(await echo.connect(path))
    return await handleload.from_loop(lambda: bare.call(handleload.BODY), plan, "async")


def from_thread(path: str, plan: handleload.Plan) -> dict[str, float]:
    loop = uvloop.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    bare = echo.FromThread(asyncio.run_coroutine_threadsafe(echo.connect(path), loop).result(), loop)
    return handleload.from_thread(lambda: bare.call(handleload.BODY), lambda future: future.result(), plan, "sync")


def main(plan: handleload.Plan) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "echo")
        with subprocess.Popen([sys.executable, echo.__file__, path], stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout is not None
                server.stdout.readline()
                figures = handleload.run(from_loop(path, plan)) | from_thread(path, plan)
            finally:
                server.terminate()
    print(json.dumps(figures))


if __name__ == "__main__":
    main(handleload.Plan(int(sys.argv[1]), float(sys.argv[2])))
