"""What batches, streams and too much load come to. Run by ``make bench-batching``.

The model (``servers/batchmodel.py``) keeps a core busy for 5 ms per batch and 0.2 ms per item, at most 32 at a time:
192 items/s one by one, 2,807 in full batches. It counts by a clock on the wall, so that its cost is the same in every
system; but it is a busy loop of Python, which shares two cores with the HTTP front, and the lock of the interpreter
with whatever else its process does. Rounds are interleaved: in each every system is started afresh, measured and
stopped, in an order that changes from round to round. Ratios are taken within a round; the median over the rounds
stands beside its aim.

Throughput. ``wrk -t1 -c64`` in a closed loop on Pointsman with ``batch_wait_timeout=0`` and with
``target_latency_ms=50``, Mosec with its default wait (10 ms) and LitServe with ``batch_timeout=0.01``, one replica or
worker each, against the model called in full batches by one process, without a server, in the same round. The busy loop
holds the interpreter's lock, which the replica's loop has to wait for, 5 ms each time; so Pointsman is also measured
with a model that computes outside the lock, as numpy does.

Latency. Poisson arrivals at a quarter of what the model can do one by one (48/s), which is a load that needs no
batches: what a request then takes beyond the model's own time is what batching and the ways to and fro add. Latency
counts from when a request was due (``openloop.py``).

Streams. 32 readers (``streamreader.py``, the same for all) ask for 1,000 chunks of 100 bytes again and again, from a
generator and from an async generator, on Pointsman and on Ray Serve with its defaults; the latter also with
``max_ongoing_requests=100``, since its default lets five streams run at once. What counts is 100 bytes of the body,
however they were framed.

Overload. Five times the capacity for 20 s in an open loop (``overload.py``), once for the model in batches with
``max_queued_queries=100`` and once for it one by one with 60, which with the 100 calls in the replica is less than a
second of work. Goodput is answers of status 200 per second; its peak is that of a closed
loop of 64 or of 128 clients just before, whichever is better. The load comes from the same two cores: at 14,000
requests/s, client, ingress and replica want more than there is. Afterwards single requests tell when an answer takes
at most twice what it took before. The ingress's memory is read every quarter of a second.

An aim that is missed is marked and changes nothing else: a timing decides nothing. Failed requests do: the run says so
and exits with 1. A peer that cannot be installed is left out, and the reason printed. All traffic stays on 127.0.0.1.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cputime
import machine
import msgspec
import openloop
import overload
import psutil  # type: ignore[import-untyped]
import streamreader
import wrk
from batchingresults import (
    BATCHED,
    DIRECT,
    LIMITS,
    LITSERVE_SIDE,
    MOSEC_SIDE,
    RAY_ASYNC,
    RAY_ASYNC_100,
    RAY_SYNC,
    STREAM_SIDES,
    STREAMS_ASYNC,
    STREAMS_SYNC,
    TARGET,
    THROUGHPUT_SIDES,
    UNLOCKED,
    WAIT,
    Direct,
    LatencyCell,
    Limit,
    OverloadCell,
    Results,
    Side,
    StreamCell,
    ThroughputCell,
    judge,
    show,
)
from peers import HERE, MOSEC_PYTHON, MOSEC_VERSION, SERVERS, Server, System, ensure_mosec, own_server, running
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from environments import LITSERVE, RAY, Environment

RESULTS = HERE / "results"
CONNECTIONS = 64
PEAK_CONNECTIONS = (64, 128)
QUARTER = 0.25
TIMES_CAPACITY = 5.0
LATENCY_S = 8
"""With the warm-up less than the 10 s after which the server closes a connection that has never been used."""
READERS = 32
STREAM_BYTES = 100_000
WARM_UP_S = 2
MEMORY_EVERY_S = 0.25
SETTLE_S = 2.0

MODEL, STREAM = "/model", "/stream"

Step = Callable[[str], None]


class Options(NamedTuple):
    rounds: int
    seconds: int
    latency_seconds: int
    stream_seconds: int
    overload_seconds: int
    output: Path


def parse_options(arguments: list[str] | None = None) -> Options:
    parser = argparse.ArgumentParser(description="Measure batches, streams and overload, beside Mosec, LitServe, Ray.")
    parser.add_argument("--rounds", type=int, default=3, help="times that each cell is measured (default 3)")
    parser.add_argument("--seconds", type=int, default=5, help="seconds of throughput and streams per cell (default 5)")
    parser.add_argument("--quick", action="store_true", help="one short round; writes batching-quick.json")
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.seconds < 1:
        parser.error(f"--rounds {given.rounds} and --seconds {given.seconds} must be at least 1")
    if given.quick:
        return Options(1, 1, 4, 1, 4, RESULTS / "batching-quick.json")
    return Options(given.rounds, given.seconds, LATENCY_S, given.seconds, 20, RESULTS / "batching.json")


def main() -> int:
    options = parse_options()
    console = Console()
    if wrk.missing():
        console.print("wrk is not installed: apt-get install wrk (macOS: brew install wrk)")
        return 2
    left_out = install_peers(console)
    facts = machine.facts(mosec=MOSEC_VERSION, litserve=LITSERVE.version, ray=RAY.version)
    results = Results(facts, options.rounds, options.seconds, left_out)
    columns = (TextColumn("{task.description:<50}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Drawn once a second: what draws takes CPU from what is measured.
    with Progress(*columns, console=console, transient=True, refresh_per_second=1) as progress:
        cells = len(sides_of(THROUGHPUT_SIDES, results)) + len(sides_of(STREAM_SIDES, results)) + 2 + len(LIMITS)
        task = progress.add_task("", total=options.rounds * cells)
        for number in range(1, options.rounds + 1):
            measure_round(results, number, options, lambda text: progress.update(task, advance=1, description=text))
    results.findings = judge(results)
    show(results, console)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    console.print(f"written: {options.output}", soft_wrap=True)
    return 1 if results.faults() else 0


def install_peers(console: Console) -> dict[str, str]:
    """Make the peers' environments; why each of those that could not be made is left out."""
    peers: dict[str, Callable[[Callable[[str], None]], None]] = {
        "mosec": ensure_mosec,
        "litserve": LITSERVE.ensure,
        "ray": RAY.ensure,
    }
    left_out = {}
    for name, ensure in peers.items():
        try:
            ensure(console.print)
        except (subprocess.SubprocessError, OSError) as error:
            left_out[name] = str(error)
            console.print(f"{name} is left out, it could not be installed: {error}", markup=False)
    return left_out


def measure_round(results: Results, number: int, options: Options, step: Step) -> None:
    """Everything once, each part in an order that changes from round to round."""

    def say(text: str) -> None:
        step(f"round {number}: {text}")

    say(DIRECT.title)
    results.direct.append(measure_direct(number, options.seconds))
    for side in turned(sides_of(THROUGHPUT_SIDES, results), number):
        say(side.title)
        results.throughputs.append(measure_throughput(side, number, options.seconds))
    say("a quarter of the capacity")
    results.latencies.append(measure_latency(number, options.latency_seconds, results.direct[-1]))
    for side in turned(sides_of(STREAM_SIDES, results), number):
        say(side.title)
        results.streams.append(measure_streams(side, number, options.stream_seconds))
    for limit in turned(list(LIMITS), number):
        say(limit.title)
        results.overloads.append(measure_overload(limit, number, options, results.direct[-1]))


def measure_direct(number: int, seconds: int) -> Direct:
    before, began = cputime.spent(os.getpid()), time.monotonic()
    command = [sys.executable, str(SERVERS / "direct.py"), str(seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + 30)
    lasted_s = time.monotonic() - began
    foreign = cputime.foreign_s(before, cputime.spent(os.getpid())) / lasted_s
    return msgspec.convert({**msgspec.json.decode(done.stdout), "round": number, "foreign_cpus": foreign}, Direct)


def measure_throughput(side: Side, number: int, seconds: int) -> ThroughputCell:
    with running(SYSTEMS[side.key]) as server:
        wrk.run(server.url, connections=CONNECTIONS, seconds=WARM_UP_S)
        before = cputime.spent(server.pid)
        load = wrk.run(server.url, connections=CONNECTIONS, seconds=seconds)
        after = cputime.spent(server.pid)
    cpu_us = cputime.per_request_us(before, after, load.requests)
    foreign = cputime.foreign_s(before, after) / (load.duration_us / 1e6)
    return ThroughputCell(number, side.key, load.requests_per_s, cpu_us, foreign, load)


def measure_latency(number: int, seconds: int, direct: Direct) -> LatencyCell:
    rate = QUARTER / (direct.one_ms / 1000)
    with running(SYSTEMS[WAIT.key]) as server:
        before, began = cputime.spent(server.pid), time.monotonic()
        latencies = openloop.measure(server.port, MODEL, rate=rate, seconds=seconds, seed=number)
        foreign_s, lasted_s = cputime.foreign_s(before, cputime.spent(server.pid)), time.monotonic() - began
    return LatencyCell(number, rate, foreign_s / lasted_s, latencies)


def measure_streams(side: Side, number: int, seconds: int) -> StreamCell:
    with running(SYSTEMS[side.key]) as server:
        before, began = cputime.spent(server.pid), time.monotonic()
        found = streamreader.measure(server.port, STREAM, readers=READERS, seconds=seconds, expected=STREAM_BYTES)
        after, lasted_s = cputime.spent(server.pid), time.monotonic() - began
    cpus = {role: (after[role] - before[role]) / lasted_s for role in after if role != cputime.ALL}
    return StreamCell(
        number, side.key, found.bytes / 100 / found.seconds, cpus, foreign_cpus(before, after, lasted_s), found
    )


def measure_overload(limit: Limit, number: int, options: Options, direct: Direct) -> OverloadCell:
    capacity = direct.items_per_s if limit is BATCHED else 1000 / direct.one_ms
    with running(SYSTEMS[limit.key]) as server:
        peaks = [wrk.run(server.url, connections=c, seconds=options.seconds) for c in PEAK_CONNECTIONS]
        ingress = ingress_of(server)
        before_mb = rss_mb(ingress)
        before, began = cputime.spent(server.pid), time.monotonic()
        loader = overload.start(
            server.port, MODEL, rate=TIMES_CAPACITY * capacity, seconds=options.overload_seconds, seed=number
        )
        most_mb = before_mb
        while loader.poll() is None:
            time.sleep(MEMORY_EVERY_S)
            most_mb = max(most_mb, rss_mb(ingress))
        found = overload.finish(loader)
        after, lasted_s = cputime.spent(server.pid), time.monotonic() - began
        time.sleep(SETTLE_S)
        after_mb = rss_mb(ingress)
    return OverloadCell(
        number,
        limit.key,
        TIMES_CAPACITY * capacity,
        max(load.requests_per_s for load in peaks),
        before_mb,
        most_mb,
        after_mb,
        {role: (after[role] - before[role]) / lasted_s for role in after if role != cputime.ALL},
        foreign_cpus(before, after, lasted_s),
        found,
        peaks,
    )


def foreign_cpus(before: cputime.Spent, after: cputime.Spent, lasted_s: float) -> float:
    return cputime.foreign_s(before, after) / lasted_s


def ingress_of(server: Server) -> psutil.Process:
    children = psutil.Process(server.pid).children(recursive=True)
    return next(child for child in children if "pointsman.ingress" in child.cmdline())


def rss_mb(process: psutil.Process) -> float:
    return float(process.memory_info().rss / 1e6)


def sides_of(sides: tuple[Side, ...], results: Results) -> list[Side]:
    """Those whose peer is there."""
    return [side for side in sides if side.peer not in results.left_out]


def turned(sides: list[Side], number: int) -> list[Side]:
    """In another order each round, and every other time backwards."""
    shift = number // 2 % len(sides)
    order = [*sides[shift:], *sides[:shift]]
    return order[::-1] if number % 2 else order


def pointsman(side: Side, scenario: str, path: str = MODEL, answer: bytes = b"ok") -> System:
    return System(side.key, side.title, own_server("pointsman_batching.py", scenario), path, answer)


def peer(side: Side, environment: Environment, script: str, path: str, answer: bytes, *arguments: str) -> System:
    def command(port: int) -> list[str]:
        return [environment.python, str(SERVERS / script), str(port), *arguments]

    return System(side.key, side.title, command, path, answer)


def mosec(port: int) -> list[str]:
    return [str(MOSEC_PYTHON), str(SERVERS / "mosec_batching.py"), "--address", "127.0.0.1", "--port", str(port)]


STREAMED = (b"x" * 99 + b"\n") * 1000
SYSTEMS = {
    system.key: system
    for system in (
        pointsman(WAIT, "wait"),
        pointsman(TARGET, "target"),
        pointsman(UNLOCKED, "wait-unlocked"),
        System(MOSEC_SIDE.key, MOSEC_SIDE.title, mosec, "/inference", b'"ok"'),
        peer(LITSERVE_SIDE, LITSERVE, "litserve_batching.py", "/predict", b'"ok"'),
        pointsman(STREAMS_SYNC, "stream-sync", STREAM, STREAMED),
        pointsman(STREAMS_ASYNC, "stream-async", STREAM, STREAMED),
        peer(RAY_SYNC, RAY, "ray_streaming.py", STREAM, STREAMED, "sync"),
        peer(RAY_ASYNC, RAY, "ray_streaming.py", STREAM, STREAMED, "async"),
        peer(RAY_ASYNC_100, RAY, "ray_streaming.py", STREAM, STREAMED, "async", "100"),
        *(pointsman(limit, limit.key) for limit in LIMITS),
    )
}


if __name__ == "__main__":
    sys.exit(main())
