"""User code for these tests: what a user might write, small. It is loaded by reference, so ``JOURNAL`` is shared."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from pointsman.request import accept_batch

JOURNAL: list[str] = []
"""What user code has done, in order; emptied before each test."""
OPEN = threading.Event()
"""Sync user code waits for it."""


async def echo_async(request: Any) -> Any:
    return await request.body()


def echo_sync(request: Any) -> Any:
    return request.body()


def returns_a_coroutine(request: Any) -> Any:
    """Sync; what it returns takes as many seconds as the body says."""
    body = request.body().decode()

    async def later() -> str:
        JOURNAL.append(f"begin {body}")
        await asyncio.sleep(float(body))
        return body

    return later()


def returns_an_async_generator(request: Any) -> Any:
    """Sync; the first value comes after as many seconds as the body says."""
    body = request.body().decode()

    async def later() -> AsyncIterator[str]:
        JOURNAL.append(f"begin {body}")
        await asyncio.sleep(float(body))
        yield body

    return later()


class MakesItsMethods:
    """Has two methods that its class knows nothing of: an async one, and one that batches. Each answers how many ran
    with it."""

    def __init__(self) -> None:
        self.ask_async = Gate()

        @accept_batch
        def ask_many(requests: list[Any]) -> list[int]:
            JOURNAL.append("begin")
            OPEN.wait(20)
            return [len(requests)] * len(requests)

        self.ask_many = ask_many

    def __call__(self, request: Any) -> str:
        return "sync"


class Gate:
    """Answers, after a second, how many requests ran with it."""

    def __init__(self) -> None:
        self.running = 0

    async def __call__(self, request: Any) -> str:
        self.running += 1
        seen = self.running
        await asyncio.sleep(1)
        self.running -= 1
        return str(seen)


class Slow:
    """Takes as many seconds as the body says; ``reconfigure`` takes a moment."""

    def __init__(self) -> None:
        self.value = "old"

    async def __call__(self, request: Any) -> str:
        body = (await request.body()).decode()
        before = self.value
        JOURNAL.append(f"begin {body}")
        try:
            await asyncio.sleep(float(body))
        except asyncio.CancelledError:
            JOURNAL.append(f"cancelled {body}")
            raise
        JOURNAL.append(f"end {body}")
        return f"{before} {self.value}"

    async def reconfigure(self, config: str) -> None:
        JOURNAL.append("begin reconfigure")
        self.value = "half"
        await asyncio.sleep(0.02)
        self.value = config
        JOURNAL.append("end reconfigure")


class Picky(Slow):
    """Fails half way with what it does not like."""

    async def reconfigure(self, config: str) -> None:
        self.value = "half"
        if config == "bad":
            raise ValueError("bad")
        self.value = config


class BlocksUntilOpen:
    """Sync; waits in each request."""

    def __init__(self) -> None:
        self.value = "old"

    def __call__(self, request: Any) -> str:
        before, body = self.value, request.body().decode()
        JOURNAL.append(f"begin {body}")
        OPEN.wait()
        JOURNAL.append(f"end {body}")
        return f"{before} {self.value}"

    def reconfigure(self, config: str) -> None:
        self.value = config
        JOURNAL.append("reconfigured")


class Numbers:
    """Streams numbers without end."""

    async def __call__(self, request: Any) -> AsyncIterator[str]:
        try:
            for number in range(10_000):
                JOURNAL.append(f"made {number}")
                yield str(number)
        finally:
            JOURNAL.append("closed")

    def reconfigure(self, config: Any) -> None:
        JOURNAL.append("reconfigured")


def numbers_sync(request: Any) -> Iterator[str]:
    """Like ``Numbers``, from a sync generator."""
    try:
        for number in range(10_000):
            JOURNAL.append(f"made {number}")
            yield str(number)
    finally:
        JOURNAL.append("closed")


class StreamLater:
    """Sync, and answers with an asynchronous stream."""

    def __call__(self, request: Any) -> AsyncIterator[str]:
        return self._numbers()

    async def _numbers(self) -> AsyncIterator[str]:
        for number in range(10_000):
            yield str(number)

    def reconfigure(self, config: Any) -> None:
        JOURNAL.append("reconfigured")


def blocks(request: Any) -> str:
    JOURNAL.append(f"begin {request.body().decode()}")
    OPEN.wait()
    JOURNAL.append(f"end {request.body().decode()}")
    return "done"


@accept_batch
def batch_sync(requests: list[Any]) -> list[int]:
    JOURNAL.append(",".join(request.body().decode() for request in requests))
    OPEN.wait()
    return [len(requests)] * len(requests)


def fails_when_open(request: Any) -> None:
    OPEN.wait()
    raise ValueError("bad")


@accept_batch
async def batch_async(requests: list[Any]) -> list[int]:
    JOURNAL.append(",".join([(await request.body()).decode() for request in requests]))
    await asyncio.sleep(1)
    return [len(requests)] * len(requests)


@accept_batch
async def batch_badly(requests: list[Any]) -> Any:
    if await requests[0].body() == b"short":
        return [1]
    raise ValueError("bad batch")


class NoCall:
    def other(self, request: Any) -> str:
        return "other"
