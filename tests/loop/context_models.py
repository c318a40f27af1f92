"""User code that sets things in its context. It is loaded by reference, so ``LEVEL`` is shared."""

from __future__ import annotations

import contextvars
import decimal
from collections.abc import AsyncIterator, Iterator
from typing import Any

from pointsman.request import accept_batch

LEVEL = contextvars.ContextVar("level", default="none")


class Remembers:
    """Its constructor sets a level and divides by a precision of its own; each call tells both and sets others."""

    def __init__(self) -> None:
        LEVEL.set("constructor")
        decimal.getcontext().prec = 5

    def _seen_and_set(self, value: str) -> str:
        seen = f"{LEVEL.get()} {decimal.getcontext().prec}"
        LEVEL.set(value)
        decimal.getcontext().prec = 3
        return seen

    def __call__(self, request: Any) -> str:
        return self._seen_and_set("sync")

    async def later(self, request: Any) -> str:
        return self._seen_and_set("async")

    @accept_batch
    def batch(self, requests: list[Any]) -> list[str]:
        return [self._seen_and_set("batch")] * len(requests)

    @accept_batch
    async def batch_later(self, requests: list[Any]) -> list[str]:
        return [self._seen_and_set("batch")] * len(requests)

    def stream(self, request: Any) -> Iterator[str]:
        LEVEL.set("stream")
        yield self._seen_and_set("within")
        yield LEVEL.get()

    def stream_later(self, request: Any) -> AsyncIterator[str]:
        LEVEL.set("stream")
        return self._steps()

    async def _steps(self) -> AsyncIterator[str]:
        yield self._seen_and_set("within")
        yield LEVEL.get()

    def awaited(self, request: Any) -> Any:
        LEVEL.set("awaited")
        return self.later(request)

    def reconfigure(self, config: str) -> None:
        self._told(config)

    def _told(self, config: str) -> None:
        assert LEVEL.get() == "constructor"
        LEVEL.set(config)

    def check_health(self) -> None:
        assert LEVEL.get() == "constructor", LEVEL.get()

    def close(self) -> None:
        SEEN.append(LEVEL.get())


class RemembersLater(Remembers):
    async def reconfigure(self, config: str) -> None:  # type: ignore[override]
        self._told(config)

    async def close(self) -> None:  # type: ignore[override]
        SEEN.append(LEVEL.get())


SEEN: list[str] = []
"""What ``close`` saw; emptied by the test."""


@accept_batch(bucket_by=lambda request: LEVEL.set("bucket") and 1)
def by_bucket(requests: list[Any]) -> list[str]:
    return [LEVEL.get()] * len(requests)


async def level(request: Any) -> str:
    return LEVEL.get()
