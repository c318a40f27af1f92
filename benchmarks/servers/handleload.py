"""How calls are made and counted, the same for the bare echo, for Pointsman and for Ray Serve.

At once: so many callers, each a task (from a loop) or a future (from a thread), and the time until the last has its
answer; repeated, the median counts. One by one: the next call when the answer of the last is there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median
from typing import Any, NamedTuple

BODY = b"hi"
WARM_UP_S = 1.0


class Plan(NamedTuple):
    """How long to measure.

    Attributes:
        calls: at once.
        seconds: at least, for each figure.
    """

    calls: int
    seconds: float


def run(main: Awaitable[dict[str, float]]) -> dict[str, float]:
    """On uvloop where there is one, which is what Pointsman's own processes run on."""
    try:
        import uvloop
    except ImportError:
        pass
    else:
        uvloop.install()

    async def with_main() -> dict[str, float]:
        return await main

    return asyncio.run(with_main())


async def from_loop(call: Callable[[], Awaitable[Any]], plan: Plan, name: str) -> dict[str, float]:
    """Calls/s of ``call``, which gives the answer when it is awaited."""

    async def caller() -> None:
        await call()

    async def at_once(calls: int) -> float:
        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(calls)))
        return calls / (time.perf_counter() - began)

    warm_until = time.monotonic() + WARM_UP_S
    while time.monotonic() < warm_until:
        await at_once(min(plan.calls, 500))
    rates: list[float] = []
    end_at = time.monotonic() + plan.seconds
    while not rates or time.monotonic() < end_at:
        rates.append(await at_once(plan.calls))
    number, began = 0, time.perf_counter()
    while (lasted_s := time.perf_counter() - began) < plan.seconds:
        await call()
        number += 1
    return {f"{name}_at_once": median(rates), f"{name}_one_by_one": number / lasted_s}


def from_thread(call: Callable[[], Any], result: Callable[[Any], Any], plan: Plan, name: str) -> dict[str, float]:
    """Calls/s of ``call``, which gives something that ``result`` waits for."""

    def at_once(calls: int) -> float:
        began = time.perf_counter()
        futures = [call() for _ in range(calls)]
        for future in futures:
            result(future)
        return calls / (time.perf_counter() - began)

    warm_until = time.monotonic() + WARM_UP_S
    while time.monotonic() < warm_until:
        at_once(min(plan.calls, 500))
    rates: list[float] = []
    end_at = time.monotonic() + plan.seconds
    while not rates or time.monotonic() < end_at:
        rates.append(at_once(plan.calls))
    number, began = 0, time.perf_counter()
    while (lasted_s := time.perf_counter() - began) < plan.seconds:
        result(call())
        number += 1
    return {f"{name}_at_once": median(rates), f"{name}_one_by_one": number / lasted_s}
