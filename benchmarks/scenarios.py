"""How a round of a scenario is measured. ``scenarios.toml`` has the scenarios: their sides, aims and tables."""

from __future__ import annotations

import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple, TypeVar

import msgspec
from load import Turn, client, in_turns, wrk
from peers import Figures, Server, Side, Watch, body_of, cpu_by_role, memory_mb, run_program, running
from results import Finding

SCRAPES = 100
BATCHED_RATE, SINGLE_RATE = 32 / (0.005 + 32 * 0.0002), 1 / 0.0052
"""What the model of ``servers/batchmodel.py`` can do."""

T = TypeVar("T")
Cells = dict[str, Figures]


class Scenario(msgspec.Struct, frozen=True):
    """A comparison.

    Attributes:
        rounds, seconds: by default; the latter for each load of each side.
        findings: what is compared, and the aims.
        measure: one of :data:`MEASURES`, "turns" or "mixed", for sides that are servers; ``arguments`` are its own.
        columns: of the table of sides: title, and how its figures are written.
    """

    title: str
    rounds: int
    seconds: float
    sides: list[Side]
    findings: list[Finding]
    columns: dict[str, str]
    measure: str = ""
    arguments: list[float] = []


SCENARIOS = msgspec.toml.decode(Path(__file__).with_suffix(".toml").read_bytes(), type=dict[str, Scenario])


class Round(NamedTuple):
    number: int
    seconds: float
    watch: Watch


def measure(scenario: Scenario, sides: Sequence[Side], this: Round) -> Cells:
    """One round: by default one side after the other, so that the machine belongs to the server that is up."""
    if scenario.measure == "turns":
        return in_turn(sides, this, [int(number) for number in scenario.arguments])
    if scenario.measure == "mixed":
        return at_once(sides, this, scenario.arguments)
    cells: Cells = {}
    for group in turned(grouped(sides), this.number):
        print(f"  round {this.number}: {', '.join(side.key for side in group)}", file=sys.stderr)
        try:
            if group[0].path:
                cells |= this.watch.undisturbed(partial(served, scenario, group, this))
            else:
                cells[group[0].key] = run_program(group[0], this.seconds)
        except RuntimeError as error:  # the others are worth measuring all the same
            print(error, file=sys.stderr)
    return {side.key: cells[side.key] for side in sides if side.key in cells}


def served(scenario: Scenario, sides: Sequence[Side], this: Round) -> Cells:
    found, how = {}, MEASURES[scenario.measure]
    with running(sides[0]) as server:
        for side in turned(sides, this.number):
            with this.watch.over():
                found[side.key] = how(side, server, this, scenario.arguments)
    return found


def grouped(sides: Sequence[Side]) -> list[list[Side]]:
    """Sides with the same server together."""
    groups: dict[str, list[Side]] = {}
    for side in sides:
        groups.setdefault(side.instance or side.key, []).append(side)
    return list(groups.values())


def turned(items: Sequence[T], number: int) -> list[T]:
    """In another order each round, and every other time backwards."""
    shift = number // 2 % len(items)
    order = [*items[shift:], *items[:shift]]
    return order[::-1] if number % 2 else order


def in_turn(sides: Sequence[Side], this: Round, connections: Sequence[int]) -> Cells:
    """All servers are up, and the sides take turns every third of a second."""
    print(f"  round {this.number}: {', '.join(side.key for side in sides)}", file=sys.stderr)
    cells: Cells = {side.key: {} for side in sides}
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for group in grouped(sides):
            server = stack.enter_context(running(group[0]))
            servers |= dict.fromkeys((side.key for side in group), server)
        for side in sides:
            server = servers[side.key]
            wrk(server.port, side.path, connections=32, seconds=1, scheme=server.scheme)
        for number in connections:
            end = f"_{number}" if len(connections) > 1 else ""
            for key, figures in this.watch.undisturbed(partial(_turns, sides, servers, number, this)).items():
                cells[key] |= {f"{name}{end}": figures[name] for name in ("rate", "cpu_us")}
                for name in ("failed", "foreign_cpus"):
                    cells[key][name] = max(cells[key].get(name, 0.0), figures[name])
    return cells


def _turns(sides: Sequence[Side], servers: dict[str, Server], connections: int, this: Round) -> Cells:
    takers = [Turn(servers[side.key], side.path, side.header, connections) for side in sides]
    with this.watch.over():
        figures = in_turns(takers, seconds=this.seconds, seed=this.number)
    return dict(zip((side.key for side in sides), figures, strict=True))


def at_once(sides: Sequence[Side], this: Round, arguments: Sequence[float]) -> Cells:
    """All servers are up, and have the same arrivals at the same time: they sleep, so there is room for all."""
    print(f"  round {this.number}: {', '.join(side.key for side in sides)}", file=sys.stderr)
    with ExitStack() as stack:
        servers = [stack.enter_context(running(side)) for side in sides]

        def load(side: Side, server: Server) -> Figures:
            return client("mixed", server.port, side.path, *arguments, this.seconds)

        def load_all() -> Cells:
            with this.watch.over(), ThreadPoolExecutor(len(sides)) as threads:
                return dict(zip((side.key for side in sides), threads.map(load, sides, servers), strict=True))

        return this.watch.undisturbed(load_all)


def closed_loops(side: Side, server: Server, this: Round, connections: Sequence[float]) -> Figures:
    """Memory, warm-up, load at each number of connections, memory."""
    figures: Figures = {"mb_first": memory_mb(server.pid), "failed": 0.0}
    load = partial(wrk, server.port, side.path, body=body_of(side))
    load(connections=(int(max(connections)) + 1) // 2, seconds=1)
    for number in map(int, connections):
        before = cpu_by_role(server.pid)
        done, end = load(connections=number, seconds=this.seconds), f"_{number}" if len(connections) > 1 else ""
        figures |= {f"rate{end}": done.rate, f"p50{end}": done.p50_ms, f"p99{end}": done.p99_ms}
        for role, spent_s in cpu_by_role(server.pid).items():
            figures[f"{role}_us{end}"] = 1e6 * (spent_s - before.get(role, 0.0)) / max(1, done.requests)
        figures["failed"] += done.failed
    return figures | {"mb": memory_mb(server.pid)}


def open_loop(side: Side, server: Server, this: Round, rate: Sequence[float]) -> Figures:
    return client("latency", server.port, side.path, rate[0], this.seconds, this.number)


def streaming(side: Side, server: Server, this: Round, readers: Sequence[float]) -> Figures:
    return client("streams", server.port, side.path, readers[0], this.seconds, 1000)


def overloaded(side: Side, server: Server, this: Round, times: Sequence[float]) -> Figures:
    """The peak is that of a closed loop of 64 or of 128 clients just before, whichever is better."""
    peak_s = max(1.0, this.seconds / 4)
    peaks = [wrk(server.port, side.path, connections=c, seconds=peak_s).rate for c in (64, 128)]
    rate = times[0] * (SINGLE_RATE if side.key.startswith("single") else BATCHED_RATE)
    before_mb = memory_mb(server.pid)
    figures = client("overload", server.port, side.path, rate, this.seconds, this.number)
    return figures | {"peak": max(peaks), "grown_mb": memory_mb(server.pid) - before_mb}


def scrapes(side: Side, server: Server, this: Round, rate: Sequence[float]) -> Figures:
    """Scrapes alone, scrapes under load, or latencies of a load while somebody scrapes every second."""
    page, taken_ms, stop = f"http://127.0.0.1:{server.spare_port}/metrics", list[float](), threading.Event()

    def scrape() -> None:
        began = time.perf_counter()
        with urllib.request.urlopen(page, timeout=30) as answer:
            answer.read()
        taken_ms.append(1000 * (time.perf_counter() - began))

    def repeat(every_s: float) -> None:
        while not stop.wait(every_s):
            scrape()

    figures: Figures = {}
    if side.key == "idle":
        wrk(server.port, side.path, connections=128, seconds=2)  # so that each replica has answered
        for _ in range(SCRAPES):
            scrape()
    else:
        thread = threading.Thread(target=repeat, args=({"loaded": 0.1, "scraped": 1.0}.get(side.key, 1e6),))
        thread.start()
        try:
            figures = open_loop(side, server, this, rate)
        finally:
            stop.set()
            thread.join()
    return figures | ({"scrape_ms": median(taken_ms), "most_ms": max(taken_ms)} if taken_ms else {})


MEASURES: dict[str, Callable[[Side, Server, Round, Sequence[float]], Figures]] = {
    one.__name__: one for one in (closed_loops, open_loop, streaming, overloaded, scrapes)
}
