"""User code for the rows. What it does, and when, it appends to a file, which outlives whatever kills it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from pointsman import accept_batch

CODE_STEP = 1000
"""How much a deploy adds to the version of a :class:`Configured`; a new configuration adds 1."""


class Journal:
    """One process's lines ``id version phase``; appended in one system call each, so that a SIGKILL loses none."""

    def __init__(self, folder: str, version: int) -> None:
        self._version = version
        path = Path(folder) / f"{os.getpid()}.truth"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, request_id: str, phase: str) -> None:
        os.write(self._file, f"{request_id} {self._version} {phase}\n".encode())


class Worker:
    """Answers ``id pid version`` after a few milliseconds.

    Args:
        folder: of the truth.
        version: that it says it is.
        dies_after_s: ends its process so long after it began; 0 for never.
        sick_after_s: fails its health check from then on; 0 for never.
    """

    def __init__(self, folder: str, version: int = 1, dies_after_s: float = 0.0, sick_after_s: float = 0.0) -> None:
        self._journal = Journal(folder, version)
        self._version = version
        self._sick_at = time.monotonic() + sick_after_s if sick_after_s else float("inf")
        self._journal.note("-", "constructed")
        if dies_after_s:
            timer = threading.Timer(dies_after_s, lambda: os._exit(9))
            timer.daemon = True
            timer.start()

    def check_health(self) -> None:
        if time.monotonic() > self._sick_at:
            raise RuntimeError("this version goes bad after a while")

    async def __call__(self, request: Any) -> str:
        query = request.query_params
        request_id = query.get("id", "-")
        self._journal.note(request_id, "begin")
        if "poison" in query:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "block" in query:
            time.sleep(float(query["block"]))  # blocks the event loop: that is the fault
        await asyncio.sleep(float(query.get("wait", "0.01")))
        self._journal.note(request_id, "end")
        return f"{request_id} {os.getpid()} {self._version}"


class Configured(Worker):
    """The same; its version counts code and configuration together, and an answer comes from one of them.

    Args:
        folder: of the truth.
        code: what number of deploy this is.
    """

    def __init__(self, folder: str, code: int) -> None:
        super().__init__(folder, code * CODE_STEP)
        self._code = code

    def reconfigure(self, number: int) -> None:
        self._version = self._code * CODE_STEP + number

    async def __call__(self, request: Any) -> str:
        before = self._version
        answer = await super().__call__(request)
        return answer if self._version == before else f"torn {os.getpid()} {before}"


class Batches:
    """The same in batches, on the replica's one thread."""

    def __init__(self, folder: str, seconds: float) -> None:
        self._journal = Journal(folder, 1)
        self._seconds = seconds

    @accept_batch
    def __call__(self, requests: list[Any]) -> list[str]:
        ids = [request.query_params["id"] for request in requests]
        for request_id in ids:
            self._journal.note(request_id, "begin")
        time.sleep(self._seconds)
        for request_id in ids:
            self._journal.note(request_id, "end")
        return [f"{request_id} {os.getpid()} 1" for request_id in ids]


class Slow:
    """One at a time, on the replica's one thread."""

    def __init__(self, folder: str, seconds: float) -> None:
        self._journal = Journal(folder, 1)
        self._seconds = seconds

    def __call__(self, request: Any) -> str:
        request_id = request.query_params["id"]
        self._journal.note(request_id, "begin")
        time.sleep(self._seconds)
        self._journal.note(request_id, "end")
        return f"{request_id} {os.getpid()} 1"


class Streams:
    """Sends a chunk every tenth of a second."""

    async def __call__(self, request: Any) -> Any:
        for number in range(int(request.query_params["chunks"])):
            yield f"{number}\n"
            await asyncio.sleep(0.1)
