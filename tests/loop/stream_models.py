"""User code that streams without end, in all ways that there are. Each notes what it does in ``JOURNAL``."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from starlette.responses import Response, StreamingResponse

from pointsman.context import call_scope
from pointsman.request import accept_batch
from tests.loop.models import JOURNAL, OPEN

MANY = 500
"""More than all windows on the way to a reader."""


def numbers(name: str) -> Iterator[str]:
    """Texts; the name is said at the begin and at the end."""
    JOURNAL.append(f"begin {name}")
    try:
        for number in range(MANY):
            yield str(number)
    finally:
        JOURNAL.append(f"closed {name}")


async def numbers_async(name: str) -> AsyncIterator[str]:
    generator = numbers(name)
    try:
        for number in generator:
            yield number
    finally:
        generator.close()


class Steps:
    """Has ``__next__`` and ``close``, and nothing else."""

    def __init__(self, name: str) -> None:
        self.numbers = numbers(name)

    def __next__(self) -> str:
        return next(self.numbers)

    def close(self) -> None:
        self.numbers.close()


class AsyncSteps:
    """Has ``__anext__`` and ``aclose``, and nothing else."""

    def __init__(self, name: str) -> None:
        self.numbers = numbers_async(name)

    async def __anext__(self) -> str:
        return await anext(self.numbers)

    async def aclose(self) -> None:
        await self.numbers.aclose()  # type: ignore[attr-defined]


class Own(Response):
    """A response that sends itself, in its own way."""

    media_type = "text/own"

    def __init__(self, name: str) -> None:
        super().__init__()
        del self.headers["content-length"]
        self.name = name

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 201, "headers": self.raw_headers})
        generator = numbers(self.name)
        try:
            for number in generator:
                await send({"type": "http.response.body", "body": number.encode(), "more_body": True})
        finally:
            generator.close()


def name_of(request: Any) -> str:
    body: bytes = request.body()
    return body.decode()


def bare(request: Any) -> Any:
    yield from numbers(name_of(request))


def returned(request: Any) -> Any:
    return numbers(name_of(request))


def mapped(request: Any) -> Any:
    return map(str.upper, numbers(name_of(request)))


def stepped(request: Any) -> Any:
    return Steps(name_of(request))


def response(request: Any) -> Any:
    return StreamingResponse(numbers(name_of(request)))


def response_of_steps(request: Any) -> Any:
    return StreamingResponse(map(str.upper, numbers(name_of(request))), status_code=201)


def later(request: Any) -> Any:
    return numbers_async(name_of(request))


def later_stepped(request: Any) -> Any:
    return AsyncSteps(name_of(request))


def later_response(request: Any) -> Any:
    return StreamingResponse(numbers_async(name_of(request)))


def own(request: Any) -> Any:
    return Own(name_of(request))


async def bare_async(request: Any) -> Any:
    async for number in numbers_async((await request.body()).decode()):
        yield number


async def returns_sync(request: Any) -> Any:
    return numbers((await request.body()).decode())


async def returns_steps(request: Any) -> Any:
    return AsyncSteps((await request.body()).decode())


async def returns_response(request: Any) -> Any:
    return StreamingResponse(numbers((await request.body()).decode()))


async def returns_async_response(request: Any) -> Any:
    return StreamingResponse(numbers_async((await request.body()).decode()))


def fails_at_once(request: Any) -> Any:
    def failing() -> Iterator[str]:
        raise LookupError("before the first")
        yield "never"

    return StreamingResponse(failing())


def fails_in_the_middle(request: Any) -> Any:
    def failing() -> Iterator[str]:
        yield "first"
        raise LookupError("after the first")

    return StreamingResponse(failing())


SYNC = [bare, returned, mapped, stepped, response, response_of_steps]
ASYNC = [later, later_stepped, later_response, own, bare_async, returns_sync, returns_steps, returns_response,
         returns_async_response]  # fmt: skip


def asks_until_left(request: Any) -> str:
    """Works until nobody waits for the answer any more."""
    JOURNAL.append("begin")
    while not request.is_disconnected():
        OPEN.wait(0.001)
    JOURNAL.append("left")
    return "nobody reads this"


@accept_batch
async def asks_for_each(requests: Any) -> list[str]:
    """Does the work of those members only that somebody still waits for."""
    JOURNAL.append(f"begin {len(requests)}")
    while not await requests[0].is_disconnected():
        await asyncio.sleep(0.001)
    left = [await request.is_disconnected() for request in requests]
    JOURNAL.append(f"left {left}")
    return [(await request.body()).decode() for request in requests]


def bodiless(request: Any) -> Any:
    return StreamingResponse(iter(["x"]), int(name_of(request)), headers={"content-length": "10"})


async def bodiless_async(request: Any) -> Any:
    return StreamingResponse(numbers("n"), int(await request.body()), headers={"content-length": "10"})


async def closed_elsewhere(request: Any) -> Any:
    loop_thread = threading.get_ident()

    def generator() -> Iterator[str]:
        try:
            for number in range(MANY):
                yield str(number)
        finally:
            JOURNAL.append("elsewhere" if threading.get_ident() != loop_thread else "on the loop")

    return StreamingResponse(generator())


def temporary(request: Any) -> Any:
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - the stream closes it
    file.write(b"a\nb\n")
    file.seek(0)
    return file


@accept_batch
def scopes(requests: list[Any]) -> list[Any]:
    def generator() -> Iterator[str]:
        scope: Any = call_scope.get()
        yield f"{scope.request_id} {scope.deadline < float('inf')}"

    return [generator() for _ in requests]
