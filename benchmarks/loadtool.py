"""What ``pointsman load`` costs and how exact it is: against ``wrk``, and against a server of known delays.

    python benchmarks/loadtool.py [--rounds 5] [--seconds 3]

The server of the first table is nginx, with one worker that answers 204: the client is what costs there. Both clients
have 64 connections and take turns, in changing order; printed are medians. Processor time is without the start of the
command. The server of the second table notes how long each of its delays really was, from the last byte of the request
to the first of the answer; what the client says above that is its own error, and the way through the kernel. The tables
are for docs/load.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

CONNECTIONS, WORKER = 64, Path(sys.executable).with_name("pointsman")
NGINX = """
daemon off; worker_processes 1; pid FOLDER/pid; error_log FOLDER/log crit;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 100000000; client_body_temp_path FOLDER; proxy_temp_path FOLDER;
  fastcgi_temp_path FOLDER; uwsgi_temp_path FOLDER; scgi_temp_path FOLDER;
  server { listen 127.0.0.1:PORT backlog=1024; location / { return 204; } } }
"""
RATE = re.compile(r"Requests/sec: +([\d.]+)")
REQUESTS = re.compile(r"(\d+) requests in")
DELAYS_S = (0.0, 0.001, 0.005, 0.02)
RATES = (1_000, 5_000, 10_000)


class Ran(NamedTuple):
    """One run of a client: requests a second, its processor time in microseconds a request, and what it printed."""

    rate: float
    cpu_us: float
    report: dict[str, Any]


def nginx() -> str:
    """Where it is; "" if it is not installed."""
    unpacked = Path(__file__).parents[1] / ".venv/proxies/usr/sbin/nginx"
    return shutil.which("nginx") or (str(unpacked) if unpacked.exists() else "")


@contextmanager
def serving() -> Iterator[int]:
    """A quick server; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "nginx.conf")
        config.write_text(NGINX.replace("FOLDER", folder).replace("PORT", str(port)))
        server = subprocess.Popen([nginx(), "-p", folder, "-c", str(config)])
        try:
            _wait_for(port)
            yield port
        finally:
            server.terminate()
            server.wait()


def _wait_for(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise RuntimeError("the server does not listen")


def ran(command: Sequence[str]) -> tuple[str, float]:
    """What a command prints, and the processor time that it took, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1, 4):
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def load(url: str, seconds: float, *words: str) -> Ran:
    text, cpu_s = ran([str(WORKER), "load", url, "--duration", str(seconds), "--json", *words])
    report = json.loads(text)
    return Ran(report["rate"], 1e6 * (cpu_s - start_s()) / report["sent"], report)


@functools.cache
def start_s() -> float:
    """Processor time that the command takes before it sends anything: Python's start and imports."""
    nothing = [str(WORKER), "load", "http://127.0.0.1:1/", "--rate", "1", "--duration", "0.001"]
    return median(ran(nothing)[1] for _ in range(3))


def wrk(url: str, seconds: float) -> Ran:
    text, cpu_s = ran(["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{round(seconds)}s", url])
    rate, requests = RATE.search(text), REQUESTS.search(text)
    assert rate is not None
    assert requests is not None
    return Ran(float(rate[1]), 1e6 * cpu_s / int(requests[1]), {})


def against_wrk(rounds: int, seconds: float) -> None:
    print("| client | loop | requests/s | CPU of the client, us per request | late p99, ms | p50, ms |")
    print("| --- | --- | --- | --- | --- | --- |")
    with serving() as port:
        url = f"http://127.0.0.1:{port}/"
        both: dict[str, list[Ran]] = {"wrk": [], "load": []}
        for turn in range(rounds):
            for name in ("wrk", "load") if turn % 2 else ("load", "wrk"):
                one = wrk(url, seconds) if name == "wrk" else load(url, seconds, "--concurrency", str(CONNECTIONS))
                both[name].append(one)
        for name, runs in both.items():
            rate, cpu_us = median(one.rate for one in runs), median(one.cpu_us for one in runs)
            print(f"| {name} | closed | {rate:,.0f} | {cpu_us:.1f} | | |")
        for rate in RATES:
            runs = [load(url, seconds, "--rate", str(rate)) for _ in range(rounds)]
            done, cpu_us = median(one.rate for one in runs), median(one.cpu_us for one in runs)
            late, p50 = (median(one.report[name] for one in runs) for name in ("late_p99_ms", "p50_ms"))
            print(f"| load | open, {rate:,}/s | {done:,.0f} | {cpu_us:.1f} | {late:.2f} | {p50:.2f} |")


class Delaying:
    """Answers each request after a delay, with a thread for each connection, and notes how long it really was."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self.took: list[float] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._listener.accept()
            except OSError:
                return
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _serve(self, one: socket.socket) -> None:
        while one.recv(65536):  # a request is shorter, and comes at once
            began = time.perf_counter()
            if self._delay_s:
                time.sleep(self._delay_s)
            self.took.append(time.perf_counter() - began)
            one.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


def against_known_delays(seconds: float) -> None:
    print("\n| delay of the server, ms | really, p50 and p99 | as load says | above, p50 and p99, us |")
    print("| --- | --- | --- | --- |")
    for delay_s in DELAYS_S:
        server = Delaying(delay_s)
        report = load(f"http://127.0.0.1:{server.port}/", seconds, "--rate", "100").report
        server.close()
        took = sorted(1000 * one for one in server.took)
        p50, p99 = (took[min(len(took) - 1, int(q * len(took)))] for q in (0.5, 0.99))
        above = (1000 * (report["p50_ms"] - p50), 1000 * (report["p99_ms"] - p99))
        said = f"{report['p50_ms']:.2f}, {report['p99_ms']:.2f}"
        print(f"| {1000 * delay_s:g} | {p50:.2f}, {p99:.2f} | {said} | {above[0]:.0f}, {above[1]:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--delays", action="store_true", help="the second table only")
    given = parser.parse_args()
    if given.delays:
        pass
    elif nginx() and shutil.which("wrk"):
        against_wrk(given.rounds, given.seconds)
    else:
        print("nginx or wrk is not installed: the first table is left out")
    against_known_delays(given.seconds)


if __name__ == "__main__":
    main()
