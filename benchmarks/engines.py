"""What the Ray engine costs against the local one, with a backend that does nothing. Run by ``make bench-ray``.

Each system is started afresh in each round, in an order that shifts, warmed up, and loaded by ``wrk -t1`` at 1, 32 and
128 connections; ratios are taken within a round. Ray Serve, from an environment of its own, runs with its defaults, and
with HAProxy in throughput mode where ``haproxy`` is installed. Absolute figures mean nothing on another machine.

At the end, what crossing nodes costs: handle calls one at a time, from one of two nodes of this machine, to a replica
of the same node over a Unix socket and to one of the other node over TCP.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from statistics import median

import wrk
from peers import SERVERS, System, own_server, running
from rich.console import Console
from rich.table import Table

from environments import RAY

CONNECTIONS = (1, 32, 128)
WARM_UP_S = 2
LOCAL = System("local", "Pointsman, local engine", own_server("pointsman_noop.py", "sync"), "/noop", b"ok")
CLUSTER = System("ray", "Pointsman, Ray engine", own_server("pointsman_noop.py", "sync", "ray"), "/noop", b"ok")


def ray_serve(port: int) -> list[str]:
    return [RAY.python, str(SERVERS / "ray_noop.py"), str(port)]


def ray_serve_haproxy(port: int) -> list[str]:
    return ["env", "RAY_SERVE_ENABLE_HA_PROXY=1", "RAY_SERVE_THROUGHPUT_OPTIMIZED=1", *ray_serve(port)]


RAY_SERVE = System("ray-serve", f"Ray Serve {RAY.version}", ray_serve, "/noop", b"ok")
RAY_SERVE_HAPROXY = System("haproxy", f"Ray Serve {RAY.version}, HAProxy", ray_serve_haproxy, "/noop", b"ok")
CROSSING_CALLS = 5000


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the Ray engine with the local one and with Ray Serve.")
    parser.add_argument("--rounds", type=int, default=3, help="times that each cell is measured (default 3)")
    parser.add_argument("--seconds", type=int, default=3, help="seconds per cell (default 3)")
    given = parser.parse_args()
    console = Console()
    if wrk.missing():
        console.print("wrk is not installed: apt-get install wrk (macOS: brew install wrk)")
        return 2
    systems = [LOCAL, CLUSTER, RAY_SERVE]
    if shutil.which("haproxy"):
        systems.append(RAY_SERVE_HAPROXY)
    else:
        console.print("Ray Serve with HAProxy is left out; it needs: apt-get install haproxy")
    try:
        RAY.ensure(console.print)
    except (subprocess.SubprocessError, OSError) as error:
        console.print(f"Ray Serve is left out, it could not be installed: {error}", markup=False)
        systems = [LOCAL, CLUSTER]
    rates: dict[tuple[str, int], list[float]] = {}
    for number in range(given.rounds):
        shift = number % len(systems)
        for system in (*systems[shift:], *systems[:shift]):
            console.print(f"round {number + 1}: {system.title}")
            with running(system) as server:
                wrk.run(server.url, connections=32, seconds=WARM_UP_S)
                for connections in CONNECTIONS:
                    load = wrk.run(server.url, connections=connections, seconds=given.seconds)
                    rates.setdefault((system.key, connections), []).append(load.requests_per_s)
    table = Table(title="requests/s, medians; in brackets the median ratio of the Ray engine to it")
    table.add_column("system")
    for connections in CONNECTIONS:
        table.add_column(f"{connections} connections", justify="right")
    for system in systems:
        cells = []
        for connections in CONNECTIONS:
            own, ours = rates[system.key, connections], rates[CLUSTER.key, connections]
            ratio = median(a / b for a, b in zip(ours, own, strict=True))
            cells.append(f"{median(own):,.0f} ({ratio:.2f} x)")
        table.add_row(system.title, *cells)
    console.print(table)
    crossing = [sys.executable, str(SERVERS / "crossing.py"), str(CROSSING_CALLS)]
    done = subprocess.run(crossing, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, timeout=180)
    medians = json.loads(done.stdout.splitlines()[-1])
    console.print(
        f"a call to a replica of the same node: {medians['here']:.0f} us; of another node: {medians['there']:.0f} us"
        f" (crossing adds {(medians['there'] - medians['here']) / 1000:.3f} ms)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
