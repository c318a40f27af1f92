"""User code in decorators, as people write it. It is loaded by reference."""

from __future__ import annotations

import asyncio
import functools
import itertools
import types
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from pointsman.request import accept_batch


def passes_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def runs(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes async code sync."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return asyncio.run(function(*args))

    return wrapper


def later(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes sync code async."""

    @functools.wraps(function)
    async def wrapper(*args: Any) -> Any:
        await asyncio.sleep(0)
        return function(*args)

    return wrapper


def gives_bytes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Changes what is called with what."""

    @functools.wraps(function)
    def wrapper(self: Any, request: Any) -> Any:
        return function(self, request.body(), "more")

    return wrapper


class Logged:
    """A decorator that is an object, as people write them for methods."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    async def __call__(self, *args: Any) -> Any:
        return "logged " + await self.function(*args)


class Greets:
    """An object that is called."""

    async def __call__(self, request: Any) -> str:
        return "greets " + (await request.body()).decode()


class Batches:
    @accept_batch
    async def __call__(self, requests: list[Any]) -> list[str]:
        return [f"{len(requests)} {(await r.body()).decode()}" for r in requests]


class Wrapped:
    """Each method gives the body of its request, or says what is around it."""

    greets = Greets()
    batches = Batches()

    def __init__(self) -> None:
        self.made = functools.partial(self._two, "made")

    @passes_on
    def __call__(self, request: Any) -> str:
        return str(request.body().decode())

    @passes_on
    async def passed_on(self, request: Any) -> str:
        return str((await request.body()).decode())

    @runs
    async def run(self, request: Any) -> str:
        return str((await request.body()).decode())

    @later
    def made_async(self, request: Any) -> str:
        return type(request).__module__

    @gives_bytes
    def given_bytes(self, body: bytes, more: str) -> str:
        return body.decode() + more

    @passes_on
    def without(self) -> str:
        return "x"

    @Logged
    async def logged(self, request: Any) -> str:
        return str((await request.body()).decode())

    async def _two(self, first: str, request: Any) -> str:
        return f"{first} {(await request.body()).decode()}"

    two = functools.partialmethod(_two, "two")

    @staticmethod
    @passes_on
    async def static(request: Any) -> str:
        return str((await request.body()).decode())

    @classmethod
    async def of_class(cls, request: Any) -> str:
        return f"{cls.__name__} {(await request.body()).decode()}"

    def old_coroutine(self, request: Any) -> Any:
        @types.coroutine
        def steps() -> Any:
            yield from asyncio.sleep(0).__await__()
            return request.body().decode()

        return steps()

    def future(self, request: Any) -> Any:
        body = request.body().decode()

        class Awaited:
            def __await__(self) -> Iterator[Any]:
                yield from asyncio.sleep(0).__await__()
                return body

        return Awaited()

    def fails(self, request: Any) -> Any:
        async def fail() -> None:
            raise LookupError("failed later")

        return fail()

    @passes_on
    @accept_batch
    async def batch(self, requests: list[Any]) -> list[str]:
        return [f"{len(requests)} {(await r.body()).decode()}" for r in requests]

    @accept_batch
    @staticmethod
    def static_batch(requests: list[Any]) -> list[str]:
        return [f"{len(requests)} {r.body().decode()}" for r in requests]


class EndlessBatches:
    """Answers without end."""

    def __init__(self) -> None:
        self.taken = 0
        self.closed = 0

    def _count(self) -> Iterator[int]:
        try:
            for number in itertools.count():
                self.taken += 1
                yield number
        finally:
            self.closed += 1

    async def _count_async(self) -> AsyncIterator[int]:
        try:
            for number in itertools.count():
                self.taken += 1
                yield number
        finally:
            self.closed += 1

    def __call__(self, request: Any) -> list[int]:
        return [self.taken, self.closed]

    @accept_batch
    def repeats(self, requests: list[Any]) -> Any:
        return itertools.repeat(1)

    @accept_batch
    def yields(self, requests: list[Any]) -> Any:
        return self._count()

    @accept_batch
    def gives_async(self, requests: list[Any]) -> Any:
        return self._count_async()

    @accept_batch
    async def returns(self, requests: list[Any]) -> Any:
        return self._count()

    @accept_batch
    async def returns_async(self, requests: list[Any]) -> Any:
        return self._count_async()

    @accept_batch
    async def yields_async(self, requests: list[Any]) -> AsyncIterator[int]:
        async for number in self._count_async():
            yield number

    @accept_batch
    async def short(self, requests: list[Any]) -> Any:
        return map(str, requests[:-1])


@passes_on
async def function_passed_on(request: Any) -> str:
    return str((await request.body()).decode())


@Logged
async def function_logged(request: Any) -> str:
    return str((await request.body()).decode())


@functools.lru_cache
def function_cached(request: Any) -> str:
    return str(request.body().decode())


@passes_on
@functools.cache
def function_without() -> str:
    return "x"
