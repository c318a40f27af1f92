"""How long it takes to choose a backend: ``Chooser.choose`` alone, in this process, without a server."""

from __future__ import annotations

import concurrent.futures
import random
import time
import timeit
from collections.abc import Callable

import msgspec

from pointsman.incoming import RequestHead
from pointsman.model import EndpointSpec, TrafficPolicy
from pointsman.routing.call import Call, Reply
from pointsman.routing.chooser import Chooser

BACKENDS = (2, 4, 8, 16)
CALLS = 1000
LOOPS, REPEATS = 20, 5


class Choice(msgspec.Struct, frozen=True):
    """Best of five runs of 20,000 calls over 1,000 draws or keys; the loop around them is included.

    It is CPU time, so that it does not grow while somebody else has the core.
    """

    backends: int
    keyed: bool
    us_per_call: float


def measure() -> list[Choice]:
    return [Choice(count, keyed, time_us(count, keyed=keyed)) for keyed in (False, True) for count in BACKENDS]


def time_us(backends: int, *, keyed: bool) -> float:
    policy = TrafficPolicy(1, {f"backend-{number}": 1 / backends for number in range(backends)})
    chooser = Chooser(EndpointSpec("endpoint", "/endpoint", ("GET",), policy))
    nobody: concurrent.futures.Future[Reply] = concurrent.futures.Future()
    chance = random.Random(1)
    todo = [
        (
            Call(
                RequestHead("endpoint"), deadline=0.0, future=nobody, shard_key=f"user-{number:06d}" if keyed else None
            ),
            draw,
        )
        for number, draw in ((chance.randrange(1_000_000), chance.random()) for _ in range(CALLS))
    ]
    runs = timeit.repeat(
        lambda: _choose_all(chooser.choose, todo), timer=time.thread_time, number=LOOPS, repeat=REPEATS
    )
    return 1e6 * min(runs) / (LOOPS * CALLS)


def _choose_all(choose: Callable[[Call, float], str], todo: list[tuple[Call, float]]) -> None:
    for call, draw in todo:
        choose(call, draw)
