"""A request that is over is gone: nothing of it waits for the garbage collector."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import msgspec
import pytest

from pointsman.ingress.exchange import Exchange
from pointsman.routing.call import Call
from pointsman.testing import ScriptedReplica, run
from pointsman.wire.frames import Frame
from pointsman.wire.stream import Stream
from tests.loop.edge import Edge, edge

REQUESTS = 20


class AnsweringReplica(ScriptedReplica):
    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None:
        super().stream_frames(stream, frames)
        for call_id in list(self.calls):
            self.reply(call_id)


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def left_behind() -> dict[str, int]:
    """How many of what a request is made of only the collector would find."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    kinds: dict[str, int] = {}
    for thing in gc.garbage:
        if isinstance(thing, (Call, Exchange)):
            kinds[type(thing).__name__] = kinds.get(type(thing).__name__, 0) + 1
    gc.garbage.clear()
    return kinds


def let_none_wait(edge: Edge) -> None:
    table = edge.router.table
    full = msgspec.structs.replace(table.backends["b"], replicas=(), max_queued_queries=0)
    edge.app.apply(msgspec.structs.replace(table, version=table.version + 1, backends={"b": full}))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 100_000], ids=["direct", "asgi"])
@pytest.mark.parametrize("does", ["answers", "refuses", "waits"])
def test_requests_leave_no_cycles(does: str, size: int) -> None:
    """Ten thousand requests a second would be ten thousand cycles a second, and the collector would take a quarter of
    the ingress's time; answered, refused or left by its client, a request is freed when it is over (G12)."""

    async def main() -> dict[str, int]:
        replica = AnsweringReplica() if does == "answers" else ScriptedReplica()
        async with edge(replica=replica) as there:
            if does == "refuses":
                let_none_wait(there)
            client = await there.client()
            for _ in range(REQUESTS):
                client.head(content_length=size)
                client.send(b"x" * size)
                await asyncio.sleep(1)  # longer than the pause behind a refusal, which goes by the time of the machine
                if does == "waits":
                    client.leave()
                    client = await there.client()
            assert client.statuses == {"answers": [200], "refuses": [503], "waits": []}[does] * REQUESTS
            assert len(replica.cancelled) == (REQUESTS if does == "waits" else 0)
            return left_behind()

    found = run(main())
    assert sum(found.values()) < REQUESTS / 2, found
