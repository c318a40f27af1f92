"""ingress.bodylimits: under too much load, connections that were refused are read again a few at a time."""

from __future__ import annotations

import asyncio
from collections import Counter

from pointsman.ingress.bodylimits import PAUSE_S, RESUMED_AT_ONCE, RefusalPauses
from pointsman.testing import run


class Reading:
    """A connection that is read, or not for now."""

    def __init__(self) -> None:
        self.reads = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


class Ingress:
    """Refuses requests, each in so many seconds of a clock that goes on within a turn of the loop."""

    def __init__(self) -> None:
        self._now = 0.0
        self._rest = RefusalPauses(asyncio.get_running_loop(), clock=lambda: self._now)

    async def refuse(self, connections: list[Reading], *, each_s: float) -> None:
        for connection in connections:
            self._rest.refused(connection)
            self._now += each_s
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def reading(connections: list[Reading]) -> int:
    return sum(connection.reads for connection in connections)


def test_a_few_refusals_cost_nobody_a_rest() -> None:
    """A client that is told 503 now and then can send its next request at once (BC5)."""

    async def scenario() -> None:
        ingress, connections = Ingress(), [Reading() for _ in range(10)]
        for _ in range(5):
            await ingress.refuse(connections, each_s=PAUSE_S / 20)
            assert reading(connections) == 10

    run(scenario())


def test_many_refusals_are_followed_by_a_rest() -> None:
    """Five hundred clients who ask again at once are read a slice at a time, each of them in turn, so that the loop has
    time for what is answered (F35, G12)."""

    async def scenario() -> None:
        ingress, connections = Ingress(), [Reading() for _ in range(500)]
        await ingress.refuse(connections, each_s=0.0001)
        assert reading(connections) == 0
        read: Counter[Reading] = Counter()
        while read.total() < 1000:
            while not reading(connections):
                await asyncio.sleep(PAUSE_S / 4)
            now = [connection for connection in connections if connection.reads]
            assert 0 < len(now) <= RESUMED_AT_ONCE
            read.update(now)
            await ingress.refuse(now, each_s=0.00001)  # a short turn, and still they rest behind the others
        assert set(read) == set(connections)
        assert max(read.values()) - min(read.values()) <= 1

    run(scenario())


def test_all_are_read_again_when_the_load_is_over() -> None:
    """Nobody who stops asking too much is left unread (F35, G12)."""

    async def scenario() -> None:
        ingress, connections = Ingress(), [Reading() for _ in range(500)]
        await ingress.refuse(connections, each_s=0.0001)
        await asyncio.sleep(PAUSE_S * (500 / RESUMED_AT_ONCE + 2))
        assert reading(connections) == 500
        await ingress.refuse(connections[:1], each_s=0.0001)
        assert reading(connections) == 500

    run(scenario())
