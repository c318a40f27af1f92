"""replica.runtime: exits that user code raises where answers are made, not where calls are: streams and JSON forms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pointsman.request import accept_batch
from pointsman.testing import MemoryReplica
from pointsman.wire.frames import Kind
from tests.loop.test_runtime import Caller, with_replica


class NoForm:
    """A value that leaves the process when it is asked for its JSON form."""

    def tolist(self) -> Any:
        raise SystemExit("while it was encoded")


def value_sync(request: Any) -> Any:
    return "fine" if request.body() == b"fine" else NoForm()


async def value_async(request: Any) -> Any:
    return "fine" if await request.body() == b"fine" else NoForm()


@accept_batch
def batch_of_values_sync(requests: list[Any]) -> list[Any]:
    return [value_sync(request) for request in requests]


@accept_batch
async def batch_of_values_async(requests: list[Any]) -> list[Any]:
    return [await value_async(request) for request in requests]


def stream_sync(request: Any) -> Iterator[str]:
    yield "some"
    if request.body() != b"fine":
        raise SystemExit("in a stream")


async def stream_async(request: Any) -> AsyncIterator[str]:
    yield "some"
    if await request.body() != b"fine":
        raise SystemExit("in a stream")


def code_id(code: Any) -> str:
    return str(code.__name__)


@pytest.mark.parametrize(
    "code",
    [value_sync, value_async, batch_of_values_sync, batch_of_values_async, stream_sync, stream_async],
    ids=code_id,
)
def test_an_exit_in_an_answer_ends_that_answer_only(code: Any) -> None:
    """An exit raised in a generator, or by a value on its way to JSON, fails its own request, and the next one is
    served (F39)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        async def ended(body: str, *kinds: Kind) -> None:
            call = caller.call(body)
            until = caller.until(lambda: caller.of(call) and caller.of(call)[-1].kind in kinds)
            await asyncio.wait_for(until, 60)  # a thread that is dead never tells

        for _ in range(2):
            await ended("exit", Kind.FAILURE)
            await ended("fine", Kind.REPLY, Kind.END)
        # The REPLY that opens a stream comes before its end.
        await asyncio.wait_for(caller.until(lambda: replica.runtime.load == 0), 60)

    with_replica(test, code, max_batch_size=2)
