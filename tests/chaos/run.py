"""Runs rows and says what came of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple

from tests.chaos.arena import Arena
from tests.chaos.load import History
from tests.chaos.rows import ROWS, Row, changes, clusters, controllers, ingresses, replicas, rollouts, usercode

__all__ = ["ROWS", "Result", "run_row"]

_FAMILIES = (replicas, controllers, ingresses, changes, rollouts, usercode, clusters)
"""Imported for what they enter into the table."""


class Result(NamedTuple):
    """What came of one row with one seed.

    Attributes:
        excused: requests in flight on an HTTP server that was killed.
        recovery_s: how long it took; None where there is nothing to recover, with ``recovery_bar_s`` as what it may.
        violations: what must not be, whatever the time it takes.
        slow: figures beyond their bars.
        load_average: of the machine in the last minute; with more than its cores, times say little.
    """

    row: Row
    seed: int
    requests: int
    lost: int
    excused: int
    failed: int
    refused: int
    recovery_s: float | None
    recovery_bar_s: float | None
    p99_s: float
    violations: list[str]
    slow: list[str]
    notes: list[str]
    took_s: float
    load_average: float = 0.0


def run_row(row: Row, seed: int, *, engine: str = "local", tell: Callable[[str], object] = lambda text: None) -> Result:
    """Run one row on an instance of its own."""
    began = time.monotonic()
    arena = Arena(seed, engine=engine, nodes=row.nodes, tell=tell, **row.http)
    try:
        try:
            row.run(arena)
        finally:
            arena.close()
    except Exception as error:  # noqa: BLE001 - a row that breaks is a row that failed; the others go on
        arena.violations.append(f"the row broke: {type(error).__name__}: {error}")
    exchanges = [exchange for history in arena.histories for exchange in history.exchanges]
    history = History(exchanges)
    recovery_s, recovery_bar_s = arena.figures.get("recovery", (None, None))
    return Result(
        row=row,
        seed=seed,
        requests=len(exchanges),
        lost=max(0, history.lost - arena.excused),
        excused=min(arena.excused, history.lost),
        failed=history.count("failed"),
        refused=history.count("refused"),
        recovery_s=recovery_s,
        recovery_bar_s=recovery_bar_s,
        p99_s=history.p99_s(),
        violations=arena.violations,
        slow=[
            f"{name} took {seconds:.2f} s, and {bar_s:g} s are allowed"
            for name, (seconds, bar_s) in arena.figures.items()
            if seconds > bar_s
        ],
        notes=[*arena.notes, *(f"{name}: {seconds:.2f} s" for name, (seconds, _) in arena.figures.items())],
        took_s=time.monotonic() - began,
        load_average=os.getloadavg()[0],
    )
