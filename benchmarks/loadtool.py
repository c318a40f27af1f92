"""What ``pointsman load`` costs and how exact it is: against ``wrk``, and against a server of known delays.

    python benchmarks/loadtool.py [--rounds 5] [--seconds 3] [--write]

It takes 100 s and prints the last section of docs/load.md; with --write it puts it there. The server of the first
table is nginx, with one worker that answers 204: the client is what costs there. Both clients have 64 connections and
take turns, in changing order. The server of the second table notes how long each of its delays really was, from the
last byte of the request to the first of the answer; what the client says above that is its own error, and the way
through the kernel.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
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

PAGE = Path(__file__).parents[1] / "docs/load.md"
HEADING = "## What it costs, and how exact it is\n"
SECTION = """
`python benchmarks/loadtool.py --write` has measured this and written it here: on {cpus} cores, {day}, medians of
{rounds} rounds of {seconds:g} s, with the range in brackets. The server is nginx {nginx} with one worker, which answers
204; both clients have {connections} connections, and share the cores with it. Processor time is the client's, without
{start_s:.1f} s for the start of the command.

{costs}

Where the client is what limits, a closed loop of `load` is slower than wrk by as much as its requests cost more. An
open loop wakes up for each request and for each answer, which a busy closed loop hardly does. One process is one
thread: past 10,000/s or so, run several. wrk2 was not compared: it has to be built from source.

A server of known delays, at 100/s for {seconds:g} s. It is a Python thread for each connection, and notes how long each
delay really was; what is above that is the way through the kernel, the thread's wake-up, and the error of the tool.

{delays}
"""
CONNECTIONS, POINTSMAN = 64, Path(sys.executable).with_name("pointsman")
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
    text, cpu_s = ran([str(POINTSMAN), "load", url, "--duration", str(seconds), "--json", *words])
    report = json.loads(text)
    return Ran(report["rate"], 1e6 * (cpu_s - start_s()) / report["sent"], report)


@functools.cache
def start_s() -> float:
    """Processor time that the command takes before it sends anything: Python's start and imports."""
    nothing = [str(POINTSMAN), "load", "http://127.0.0.1:1/", "--rate", "1", "--duration", "0.001"]
    return median(ran(nothing)[1] for _ in range(3))


def wrk(url: str, seconds: float) -> Ran:
    text, cpu_s = ran(["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{round(seconds)}s", url])
    rate, requests = RATE.search(text), REQUESTS.search(text)
    assert rate is not None
    assert requests is not None
    return Ran(float(rate[1]), 1e6 * cpu_s / int(requests[1]), {})


def against_wrk(rounds: int, seconds: float) -> Iterator[str]:
    """The rows of the first table."""
    yield "| client | loop | requests/s | CPU per request | late p99 | p50 |"
    yield "| --- | --- | --- | --- | --- | --- |"
    with serving() as port:
        url = f"http://127.0.0.1:{port}/"
        both: dict[str, list[Ran]] = {"wrk": [], "load": []}
        for turn in range(rounds):
            for name in ("wrk", "load") if turn % 2 else ("load", "wrk"):
                one = wrk(url, seconds) if name == "wrk" else load(url, seconds, "--concurrency", str(CONNECTIONS))
                both[name].append(one)
        for name, client in (("wrk", f"wrk {version_of('wrk')}, one thread"), ("load", "`pointsman load`")):
            yield f"| {client} | closed | {_rates(both[name])} | {_cpu(both[name])} | | |"
        for rate in RATES:
            runs = [load(url, seconds, "--rate", str(rate)) for _ in range(rounds)]
            late, p50 = (median(one.report[name] for one in runs) for name in ("late_p99_ms", "p50_ms"))
            last = f"{_cpu(runs)} | {late:.2f} ms | {p50:.2f} ms |"
            yield f"| `pointsman load` | open, {rate:,}/s | {_rates(runs)} | {last}"


def _rates(runs: Sequence[Ran]) -> str:
    rates = [one.rate for one in runs]
    return f"{median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"


def _cpu(runs: Sequence[Ran]) -> str:
    return f"{median(one.cpu_us for one in runs):.1f} us"


def version_of(program: str) -> str:
    """The version that wrk or nginx prints."""
    done = subprocess.run([program, "-v"], capture_output=True, text=True, check=False)
    found = re.search(r"(?:nginx/|wrk (?:debian/)?)([\d.]+)", done.stdout + done.stderr)
    return found[1] if found else "of an unknown version"


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


def against_known_delays(seconds: float) -> Iterator[str]:
    """The rows of the second table."""
    yield "| delay | really, p50 and p99 | `load` says | above, p50 and p99 |"
    yield "| --- | --- | --- | --- |"
    for delay_s in DELAYS_S:
        server = Delaying(delay_s)
        report = load(f"http://127.0.0.1:{server.port}/", seconds, "--rate", "100").report
        server.close()
        took = sorted(1000 * one for one in server.took)
        really = [took[min(len(took) - 1, int(q * len(took)))] for q in (0.5, 0.99)]
        says = [report["p50_ms"], report["p99_ms"]]
        pairs = (really, says, [says[at] - really[at] for at in (0, 1)])
        shown = " | ".join(f"{p50:.2f}, {p99:.2f} ms" for p50, p99 in pairs)
        yield f"| {f'{1000 * delay_s:g} ms' if delay_s else 'none'} | {shown} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--write", action="store_true", help="put it into docs/load.md")
    given = parser.parse_args()
    if not (nginx() and shutil.which("wrk")):
        sys.exit("nginx or wrk is not installed; for nginx run: make proxies")
    section = SECTION.format(
        cpus=len(os.sched_getaffinity(0)),
        day=time.strftime("%Y-%m-%d"),
        rounds=given.rounds,
        seconds=given.seconds,
        nginx=version_of(nginx()),
        connections=CONNECTIONS,
        start_s=start_s(),
        costs="\n".join(against_wrk(given.rounds, given.seconds)),
        delays="\n".join(against_known_delays(given.seconds)),
    )
    print(section)
    if given.write:
        before, heading, _ = PAGE.read_text().partition(HEADING)
        assert heading, f"{PAGE} has no section {HEADING.strip()!r}"
        PAGE.write_text(before + heading + section)


if __name__ == "__main__":
    main()
