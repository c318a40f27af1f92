"""What the console costs: throughput with a page open and without, what controller and console take, what is sent.

    python benchmarks/console.py [--endpoints 1000] [--turns 10] [--seconds 3] [--viewers 1] [--engine local]

One instance, one load (``wrk``, 16 connections, a POST of two bytes to one endpoint), in turns: a page follows the
stream, or none does, in changing order. The ratio is that of two turns side by side; printed are its median and the
middle half. A second figure compares turns without a page with each other: the noise of the machine. CPU is taken while
nothing is called, and while each endpoint is called once a second. The table is for docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]

import pointsman as serve

SCRIPT = 'wrk.method, wrk.body = "POST", "{}"\nwrk.headers["content-type"] = "application/json"\n'


SETTLE_S = 1.0


class Noop:
    """A model that does nothing."""

    def __call__(self, request: Any) -> dict[str, int]:
        return {}


class Page:
    """Follows the stream over a plain socket, as a page on another machine does, and counts what comes.

    Attributes:
        received: bytes as they were sent, compressed.
    """

    def __init__(self, link: str) -> None:
        self.received = 0
        base, _, token = link.partition("/#token=")
        host, _, port = base.removeprefix("http://").rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        head = (
            f"GET /api/v1/live HTTP/1.1\r\nhost: {host}:{port}\r\n"
            f"authorization: Bearer {token}\r\naccept-encoding: gzip\r\n\r\n"
        )
        self._socket.sendall(head.encode())
        if b" 200 " not in self._socket.recv(65536).partition(b"\r\n")[0]:
            sys.exit("the console does not answer")
        threading.Thread(target=self._follow, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _follow(self) -> None:
        with contextlib.suppress(OSError):  # it is closed while it waits
            while piece := self._socket.recv(65536):
                self.received += len(piece)


@contextmanager
def instance(endpoints: int, engine: str) -> Iterator[serve.Client]:
    """An instance with so many endpoints of one backend."""
    client = serve.start(engine=engine, http_options={"port": 0}, metrics_export_port=0, console_port=0)
    try:
        client.create_backend("noop", Noop)
        with ThreadPoolExecutor(8) as threads:
            names = [f"endpoint-{number:04}" for number in range(endpoints)]
            list(
                threads.map(lambda n: client.create_endpoint(n, backend="noop", route=f"/{n}", methods=["POST"]), names)
            )
        yield client
    finally:
        client.shutdown()


def load(url: str, seconds: float, script: Path) -> float:
    """Requests a second."""
    command = ["wrk", "-t1", "-c16", f"-d{seconds:g}s", "-s", str(script), url]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        sys.exit(f"requests failed:\n{out}")
    return float(out.split("Requests/sec:")[1].split()[0])


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def named(*words: str) -> psutil.Process:
    """The process of this instance with one of these words in its command line; actors of Ray are called after their
    classes."""
    found = [one for one in psutil.Process().children(recursive=True) if set(words) & {*one.cmdline()}]
    if len(found) != 1:
        sys.exit(f"{len(found)} processes of this instance are called {' or '.join(words)}")
    return found[0]


def rested(processes: list[psutil.Process], seconds: float) -> list[float]:
    """The share of a core that each takes while nothing else happens."""
    before, began = [cpu_s(one) for one in processes], time.monotonic()
    time.sleep(seconds)
    lasted = time.monotonic() - began
    return [(cpu_s(one) - then) / lasted for one, then in zip(processes, before, strict=True)]


@contextmanager
def touched(client: serve.Client, endpoints: int) -> Iterator[None]:
    """Each endpoint is called once a second, as far as one thread can."""
    over = threading.Event()

    def call() -> None:
        with httpx.Client(base_url=str(client.http_address), timeout=30.0) as http:
            while not over.is_set():
                began = time.monotonic()
                for number in range(endpoints):
                    http.post(f"/endpoint-{number:04}", json={}).raise_for_status()
                    if over.is_set():
                        return
                over.wait(max(0.0, began + 1.0 - time.monotonic()))

    calling = threading.Thread(target=call)
    calling.start()
    try:
        yield
    finally:
        over.set()
        calling.join()


def cpu_of(client: serve.Client, options: argparse.Namespace, processes: list[psutil.Process]) -> dict[str, Any]:
    """What the processes take with pages and without, idle and busy, and what is sent to each page."""
    found: dict[str, Any] = {}
    for state in ("idle", "busy"):
        with touched(client, options.endpoints) if state == "busy" else contextlib.nullcontext():
            time.sleep(SETTLE_S)
            without = rested(processes, 2 * options.seconds)
            pages = [Page(client.console_link("view")) for _ in range(options.viewers)]
            time.sleep(2 * SETTLE_S)
            began, before = time.monotonic(), [page.received for page in pages]
            with_page = rested(processes, 2 * options.seconds)
            sent = sum(page.received - then for page, then in zip(pages, before, strict=True)) / len(pages)
            found[state] = {
                "console_cpu": {"without": round(without[0], 4), "with": round(with_page[0], 4)},
                "controller_cpu": {"without": round(without[1], 4), "with": round(with_page[1], 4)},
                "first_bytes": before[0],
                "bytes_per_s": round(sent / (time.monotonic() - began)),
            }
            for page in pages:
                page.close()
    return found


def measure(options: argparse.Namespace, script: Path) -> dict[str, Any]:
    with instance(options.endpoints, options.engine) as client:
        link = client.console_link("view")
        processes = [
            named("pointsman.console", "ray::ConsoleHost"),
            named("pointsman.controller", "ray::ControllerHost"),
        ]
        url, ratios, noise = f"{client.http_address}/endpoint-0000", [], []
        load(url, 1.0, script)
        found = cpu_of(client, options, processes)
        for turn in range(options.turns):
            rates = {}
            for side in ("without", "with", "again")[:: 1 if turn % 2 else -1]:
                pages = [Page(link) for _ in range(options.viewers if side == "with" else 0)]
                time.sleep(SETTLE_S)  # what it costs to open a page is no cost of having it open
                rates[side] = load(url, options.seconds, script)
                for page in pages:
                    page.close()
            plain = (rates["without"] + rates["again"]) / 2
            ratios.append(rates["with"] / plain)
            noise.append(rates["without"] / rates["again"])
        memory = processes[0].memory_full_info()
        return {
            "engine": options.engine,
            "endpoints": options.endpoints,
            "viewers": options.viewers,
            "throughput": spread(ratios),
            "of no difference": spread(noise),
            **found,
            "console_mb": {"rss": memory.rss >> 20, "pss": memory.pss >> 20, "uss": memory.uss >> 20},
        }


def table(found: dict[str, Any]) -> str:
    """The figures as rows of Markdown."""

    def times(one: dict[str, float]) -> str:
        return f"{one['median']:.3f} ({one['low']:.3f}-{one['high']:.3f})"

    def shares(one: dict[str, float]) -> str:
        return f"{one['without']:.1%} without, {one['with']:.1%} with"

    rows = {
        "throughput with the page open, of that without": times(found["throughput"]),
        "the same of two turns without": times(found["of no difference"]),
        "memory of the console (RSS)": f"{found['console_mb']['rss']} MB",
    }
    for state in ("idle", "busy"):
        rows[f"core that the controller takes, {state}"] = shares(found[state]["controller_cpu"])
        rows[f"core that the console takes, {state}"] = shares(found[state]["console_cpu"])
        rows[f"sent to a page, {state}"] = f"{found[state]['bytes_per_s'] / 1000:.1f} KB/s"
    head = f"{found['endpoints']} endpoints, {found['viewers']} viewers, engine {found['engine']}"
    return "\n".join([f"| {head} | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())])


def spread(values: list[float]) -> dict[str, float]:
    low, _, high = quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return {"median": round(median(values), 4), "low": round(low, 4), "high": round(high, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description="What the console costs.")
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--viewers", type=int, default=1)
    parser.add_argument("--engine", default="local", choices=("local", "ray"))
    options = parser.parse_args()
    script = Path(__file__).parent / "results" / "console.lua"
    script.parent.mkdir(exist_ok=True)
    script.write_text(SCRIPT)
    found = measure(options, script)
    print(json.dumps(found, indent=2))
    print(table(found))


if __name__ == "__main__":
    main()
