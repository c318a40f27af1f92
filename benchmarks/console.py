"""What the console costs: throughput with a page open and without, what controller and console take, what is sent.

    python benchmarks/console.py [--endpoints 1000] [--turns 12] [--seconds 3] [--viewers 1]

One instance, one load (``wrk``, 16 connections, a POST of two bytes to one endpoint), in turns: a page follows the
stream, or none does, in changing order. The ratio is that of two turns side by side; printed are its median and the
middle half. A second figure compares turns without a page with each other: the noise of the machine.
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
def instance(endpoints: int) -> Iterator[serve.Client]:
    """An instance with so many endpoints of one backend."""
    client = serve.start(http_options={"port": 0}, metrics_export_port=0, console_port=0)
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


def named(word: str) -> psutil.Process:
    """The process of this instance with that word in its command line."""
    found = [one for one in psutil.Process().children(recursive=True) if word in one.cmdline()]
    if len(found) != 1:
        sys.exit(f"{len(found)} processes of this instance are called {word}")
    return found[0]


def rested(processes: list[psutil.Process], seconds: float) -> list[float]:
    """The share of a core that each takes while nothing else happens."""
    before, began = [cpu_s(one) for one in processes], time.monotonic()
    time.sleep(seconds)
    lasted = time.monotonic() - began
    return [(cpu_s(one) - then) / lasted for one, then in zip(processes, before, strict=True)]


def touch(client: serve.Client, endpoints: int) -> None:
    """One call of each endpoint, so that the page has all of them."""
    with httpx.Client(base_url=str(client.http_address), timeout=30.0) as http:
        for number in range(endpoints):
            http.post(f"/endpoint-{number:04}", json={}).raise_for_status()


def measure(options: argparse.Namespace, script: Path) -> dict[str, Any]:
    with instance(options.endpoints) as client:
        link = client.console_link("view")
        processes = [named("pointsman.console"), named("pointsman.controller")]
        url, ratios, noise = f"{client.http_address}/endpoint-0000", [], []
        load(url, 1.0, script)
        before = rested(processes, options.seconds)
        pages = [Page(link) for _ in range(options.viewers)]
        time.sleep(2.0)
        sent = sum(page.received for page in pages)
        after = rested(processes, options.seconds)
        touch(client, options.endpoints)
        time.sleep(2.0)
        began, most = time.monotonic(), sum(page.received for page in pages)
        rested(processes, options.seconds)
        busy_bytes = (sum(page.received for page in pages) - most) / (time.monotonic() - began) / len(pages)
        for page in pages:
            page.close()
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
            "endpoints": options.endpoints,
            "viewers": options.viewers,
            "throughput": spread(ratios),
            "of no difference": spread(noise),
            "console_cpu": {"without": round(before[0], 4), "with": round(after[0], 4)},
            "controller_cpu": {"without": round(before[1], 4), "with": round(after[1], 4)},
            "first_bytes": sent // len(pages or [1]),
            "bytes_per_s": round(busy_bytes),
            "console_mb": {"rss": memory.rss >> 20, "pss": memory.pss >> 20, "uss": memory.uss >> 20},
        }


def spread(values: list[float]) -> dict[str, float]:
    low, _, high = quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return {"median": round(median(values), 4), "low": round(low, 4), "high": round(high, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description="What the console costs.")
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--viewers", type=int, default=1)
    options = parser.parse_args()
    script = Path(__file__).parent / "results" / "console.lua"
    script.parent.mkdir(exist_ok=True)
    script.write_text(SCRIPT)
    print(json.dumps(measure(options, script), indent=2))


if __name__ == "__main__":
    main()
