"""What splits, keys, shadows and ``x-serve-*`` headers cost, and whether weights are kept. ``make bench-traffic``.

Method. All figures are ratios between two sides of one comparison, taken within a round; the median over the rounds
stands beside its aim. Every round starts its servers afresh and measures the sides in another order. One side is
measured twice in each round: its ratio to itself is what the noise of the machine makes of no difference at all. A
measurement begins when the machine is idle, and is made again when something else used more than a tenth of a CPU
meanwhile; rounds that stay disturbed count only where there are fewer than three others.

Split. A no-op ``def`` behind ``/single`` (one backend) and ``/split`` (two backends at 50/50), on one instance, under
``wrk -t1`` at 32 and 128 connections. The two have the same number of replicas, two: one backend of two against two of
one each. With one replica against two the split would win by a process, and with two against four likewise; now both
have the same processes to wait for, and the difference is the choice of a backend, the key, and that the split must
keep to the weights where one backend's calls go to whichever replica has less to do. Every request of every side
carries one header whose value changes, made beforehand by the same script: the shard key, or one of the same length
that means nothing to Pointsman. So ``wrk`` and the HTTP parser have the same work everywhere. The sides take turns
every third of a second on the same connections (``slices.py``): loads of seconds, one after the other, differed by up
to 60 % where they were the same. A round's ratio is the median over its cycles, in each of which every side has one
slice. The CPU time that ingress and replicas spent per request stands beside the throughput.

Shadow. ``/plain`` and ``/shadowed`` lead to the same replica of a no-op ``def``; a tenth of the calls to the latter is
copied to a backend that sleeps for an hour. Requests arrive at random (Poisson) at 1,000/s in all, the same arrivals on
each side of a round, and latency counts from the moment a request was due (``openloop.py``). Two cases: with the
default deadline 100 copies get stuck and later ones are dropped, which is the state that lasts; with one of 0.8 s they
expire, so that copies are made, sent and given up all the time.

Choosing. ``Chooser.choose`` alone, in this process, best of five. Headers. Two instances, with and without, loaded in
turn. Shares. 20,000 requests over 100 connections and two ingress processes, chi-square against 0.5/0.3/0.2; once
without keys, and once with as many keys.

An aim that is missed is marked and changes nothing else: a timing decides nothing. Failed requests do: the run says so
and exits with 1. All traffic stays on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import choosing
import cputime
import machine
import msgspec
import openloop
import shares
import slices
import wrk
from cputime import Patience
from peers import HERE, Server, System, own_server, running
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from trafficresults import (
    HEADERS_CONNECTIONS,
    HEADERS_SIDES,
    SHADOW_SIDES,
    SHADOWINGS,
    SPLIT_CONNECTIONS,
    SPLIT_SIDES,
    LatencyCell,
    LoadCell,
    Results,
    Shadowing,
    Side,
    SlicedCell,
    judge,
    show,
)

RESULTS = HERE / "results"
RATE = 1000.0
SLICED_FOR = 10
"""Times as long as a cell is the load that the sides of a split share: 11 cycles, where a cell takes 2 s."""
WARM_UP_S, WARM_UP_CONNECTIONS = 1, 32
WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.2}

T = TypeVar("T")
Step = Callable[[str], None]


class Options(NamedTuple):
    rounds: int
    seconds: int
    latency_seconds: int
    patience_s: float
    output: Path


def parse_options(arguments: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(description="Measure what traffic policies cost.")
    parser.add_argument("--rounds", type=int, default=9, help="times that each cell is measured (default 9)")
    parser.add_argument(
        "--seconds", type=int, default=2, help="seconds per cell; 10 times that per split, twice for p99 (default 2)"
    )
    parser.add_argument("--patience", type=float, default=600, help="most seconds to wait for a quiet machine (600)")
    parser.add_argument("--quick", action="store_true", help="one round of 1 s per cell; writes traffic-quick.json")
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.seconds < 1:
        parser.error(f"--rounds {given.rounds} and --seconds {given.seconds} must be at least 1")
    if given.quick:
        return Options(1, 1, 1, 0, RESULTS / "traffic-quick.json")
    return Options(given.rounds, given.seconds, 2 * given.seconds, given.patience, RESULTS / "traffic.json")


def main() -> int:
    options = parse_options()
    console = Console()
    if wrk.missing():
        console.print("wrk is not installed: apt-get install wrk (macOS: brew install wrk)")
        return 2
    results = Results(machine.facts(), options.rounds, options.seconds, RATE)
    columns = (TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Drawn once a second: what draws takes CPU from what is measured.
    with Progress(*columns, console=console, transient=True, refresh_per_second=1) as progress:
        cells = len(SPLIT_CONNECTIONS) + len(HEADERS_SIDES) + len(SHADOWINGS) * len(SHADOW_SIDES)
        task = progress.add_task("", total=options.rounds * cells + 3)
        measure(results, options, lambda text: progress.update(task, advance=1, description=text))
    results.findings = judge(results)
    show(results, console)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    console.print(f"written: {options.output}", soft_wrap=True)
    return 1 if results.faults() else 0


def measure(results: Results, options: Options, step: Step) -> None:
    """Fill ``results`` with everything that is measured; ``step`` is told of each cell before it begins."""
    step("choosing")
    results.choices = choosing.measure()
    measure_shares(results, step)
    patience = cputime.Patience(options.patience_s)
    for number in range(options.rounds):
        measure_split(results, number, options.seconds, patience, step)
        measure_headers(results, number, options.seconds, patience, step)
        for shadowing in turned(SHADOWINGS, number):
            measure_shadow(results, shadowing, number, options.latency_seconds, patience, step)


def measure_split(results: Results, number: int, seconds: int, patience: Patience, step: Step) -> None:
    """One round of splits and keys."""
    with running(scenario("split")) as server:
        warm_up(server, SPLIT_SIDES)
        for connections in SPLIT_CONNECTIONS:
            step(f"round {number + 1}: splits and keys, c={connections}")
            measure_cell = partial(sliced_cell, server, number, connections, SLICED_FOR * seconds)
            results.slices.append(patience.undisturbed(measure_cell))


def measure_headers(results: Results, number: int, seconds: int, patience: Patience, step: Step) -> None:
    """One round with and without headers. Both servers are up; the one that is not loaded does nothing."""
    with ExitStack() as stack:
        servers = {flag: stack.enter_context(running(scenario("headers", flag))) for flag in ("on", "off")}
        for flag, server in servers.items():
            warm_up(server, [side for side in HEADERS_SIDES if side.server == flag])
        for side in turned(HEADERS_SIDES, number):
            step(f"round {number + 1}: {side.title}")
            measure_cell = partial(load_cell, servers[side.server], side, number, HEADERS_CONNECTIONS, seconds)
            results.loads.append(patience.undisturbed(measure_cell))


def measure_shadow(
    results: Results, shadowing: Shadowing, number: int, seconds: int, patience: Patience, step: Step
) -> None:
    """One round with and without a hanging shadow."""
    arguments = [] if shadowing.timeout_s is None else [str(shadowing.timeout_s)]
    with running(scenario("shadow", *arguments)) as server:
        for side in turned(SHADOW_SIDES, number):
            step(f"round {number + 1}: {side.title}")
            measure_cell = partial(latency_cell, server, shadowing, side, number, seconds)
            results.latencies.append(patience.undisturbed(measure_cell))


def measure_shares(results: Results, step: Step) -> None:
    with running(scenario("shares")) as server:
        for keyed in (False, True):
            step("shares, with keys" if keyed else "shares, without keys")
            results.shares.append(shares.measure(server.port, "/shares", WEIGHTS, keyed=keyed))


def load_cell(server: Server, side: Side, number: int, connections: int, seconds: int) -> LoadCell:
    before = cputime.spent(server.pid)
    load = wrk.run(url(server, side), connections=connections, seconds=seconds, header=side.header)
    after = cputime.spent(server.pid)
    return LoadCell(
        number + 1,
        side.key,
        connections,
        load.requests_per_s,
        cputime.per_request_us(before, after, load.requests),
        cputime.foreign_s(before, after) / (load.duration_us / 1e6),
        load,
    )


def sliced_cell(server: Server, number: int, connections: int, seconds: int) -> SlicedCell:
    before = cputime.spent(server.pid)
    began = time.monotonic()
    found = slices.measure(
        server.port, server.pid, SPLIT_SIDES, connections=connections, seconds=seconds, seed=number + 1
    )
    foreign_s, lasted_s = cputime.foreign_s(before, cputime.spent(server.pid)), time.monotonic() - began
    return SlicedCell(number + 1, connections, foreign_s / lasted_s, found)


def latency_cell(server: Server, shadowing: Shadowing, side: Side, number: int, seconds: int) -> LatencyCell:
    before, began = cputime.spent(server.pid), time.monotonic()
    latencies = openloop.measure(server.port, side.path, rate=RATE, seconds=seconds, seed=number)
    foreign_s, lasted_s = cputime.foreign_s(before, cputime.spent(server.pid)), time.monotonic() - began
    return LatencyCell(number + 1, shadowing.key, side.key, foreign_s / lasted_s, latencies)


def warm_up(server: Server, sides: Sequence[Side]) -> None:
    """A short load on each of the sides' paths."""
    for side in {side.path: side for side in sides}.values():
        wrk.run(url(server, side), connections=WARM_UP_CONNECTIONS, seconds=WARM_UP_S, header=side.header)


def url(server: Server, side: Side) -> str:
    return f"http://127.0.0.1:{server.port}{side.path}"


def scenario(name: str, *arguments: str) -> System:
    """A server of ``pointsman_traffic.py``; its last endpoint answers when all the others do."""
    title = " ".join(("Pointsman,", name, *arguments))
    return System(name, title, own_server("pointsman_traffic.py", name, *arguments), "/ready", b"ok")


def turned(sides: Sequence[T], number: int) -> list[T]:
    """In another order each round, and every other time backwards."""
    shift = number // 2 % len(sides)
    order = [*sides[shift:], *sides[:shift]]
    return order[::-1] if number % 2 else order


if __name__ == "__main__":
    sys.exit(main())
