"""User code for the tests of batches: it is loaded by reference, so ``JOURNAL`` and ``SCOPES`` are shared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from pointsman.context import CallScope, call_scope
from pointsman.request import accept_batch
from tests.loop.models import JOURNAL, OPEN

SCOPES: list[CallScope | None] = []
"""What user code saw of its call, in order; emptied before each test."""


class Hostile:
    """Equals nothing, and says so loudly."""

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")


def bucket(request: Any) -> Any:
    """The length of the body, unless that asks for trouble."""
    body = request.body().decode()
    if body == "raise":
        raise ValueError("no bucket")
    if body == "exit":
        raise SystemExit("no bucket")
    if body == "unhashable":
        return [body]
    if body == "hostile":
        return Hostile()
    return len(body)


@accept_batch(bucket_by=bucket)
async def by_length_async(requests: list[Any]) -> list[bytes]:
    bodies = [await request.body() for request in requests]
    JOURNAL.append(",".join(body.decode() for body in bodies))
    return bodies


@accept_batch(bucket_by=bucket)
def by_length_sync(requests: list[Any]) -> list[bytes]:
    JOURNAL.append(",".join(request.body().decode() for request in requests))
    OPEN.wait()
    return [request.body() for request in requests]


class Own(Exception):
    """A user's own exception."""


OBJECTS: dict[str, BaseException] = {
    "own": Own("mine"),
    "key": KeyError("k"),
    "exit": SystemExit("out"),
    "interrupt": KeyboardInterrupt("out"),
    "cancelled": asyncio.CancelledError("out"),
    "end": GeneratorExit("out"),
    "stop": StopIteration("out"),
}


def _answer(body: Any) -> Any:
    text = body.decode() if isinstance(body, bytes) else body
    return OBJECTS.get(text, f"fine {text}")


@accept_batch
async def some_fail_async(requests: list[Any]) -> list[Any]:
    return [_answer(await request.body()) for request in requests]


@accept_batch
def some_fail_sync(requests: list[Any]) -> tuple[Any, ...]:
    OPEN.wait()
    return tuple(_answer(request.body()) for request in requests)


def _raise_or_answer(bodies: list[str]) -> list[str]:
    for body in bodies:
        if body in OBJECTS:
            raise OBJECTS[body]
    return bodies


@accept_batch
async def raises_async(requests: list[Any]) -> list[str]:
    return _raise_or_answer([(await request.body()).decode() for request in requests])


@accept_batch
def raises_sync(requests: list[Any]) -> list[str]:
    return _raise_or_answer([request.body().decode() for request in requests])


class Scoped:
    """Notes what inner calls would inherit; every method does, and ``reconfigure`` too."""

    def __call__(self, request: Any) -> None:
        SCOPES.append(call_scope.get())

    async def later(self, request: Any) -> None:
        await asyncio.sleep(0)
        SCOPES.append(call_scope.get())

    @accept_batch
    def batch(self, requests: list[Any]) -> list[int]:
        JOURNAL.append(str(len(requests)))
        OPEN.wait()
        SCOPES.append(call_scope.get())
        return [len(requests)] * len(requests)

    @accept_batch
    async def batch_later(self, requests: list[Any]) -> list[int]:
        await asyncio.sleep(1)
        SCOPES.append(call_scope.get())
        return [len(requests)] * len(requests)

    def stream(self, request: Any) -> Iterator[str]:
        for number in range(3):
            SCOPES.append(call_scope.get())
            yield str(number)
        SCOPES.append(call_scope.get())

    async def stream_later(self, request: Any) -> AsyncIterator[str]:
        for number in range(3):
            SCOPES.append(call_scope.get())
            yield str(number)
        SCOPES.append(call_scope.get())

    def fails(self, request: Any) -> None:
        raise ValueError("no")

    def reconfigure(self, config: Any) -> None:
        SCOPES.append(call_scope.get())


class ScopedAsync(Scoped):
    """The same with an asynchronous ``reconfigure``, on a replica whose clock may jump."""

    async def __call__(self, request: Any) -> None:
        SCOPES.append(call_scope.get())

    async def reconfigure(self, config: Any) -> None:  # type: ignore[override]
        SCOPES.append(call_scope.get())


class StreamsLater:
    """A sync callable that answers with an asynchronous stream, which says for whom it thinks it runs."""

    def __call__(self, request: Any) -> AsyncIterator[str]:
        JOURNAL.append(f"called {request.body().decode()}")
        OPEN.wait()
        return self._stream(request.body().decode())

    async def _stream(self, body: str) -> AsyncIterator[str]:
        scope = call_scope.get()
        yield f"{body} for {scope.request_id if scope is not None else None}"
