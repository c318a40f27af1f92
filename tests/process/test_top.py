"""`pointsman top` and `pointsman status --watch`, in a pipe and on a terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

import pointsman as serve
from pointsman.cli.top import stats_tables
from tests.conftest import WAIT_S
from tests.process.test_cli import PROGRAM, pointsman


@pytest.fixture(scope="module")
def busy() -> Iterator[str]:
    """Name of a detached instance that has answered a few requests."""
    with serve.start(True, name="busy", http_options={"port": 0}, metrics_export_port=0) as client:
        client.create_backend("[bold]model", lambda request: "ok")
        client.create_endpoint("ask", backend="[bold]model", route="/ask")
        for _ in range(5):
            client.get_handle("ask").remote().result()
        yield "busy"


def test_top_in_a_pipe_is_one_picture(busy: str) -> None:
    """I pipe it into a file: one table of endpoints and one of backends, and it ends."""
    shown = pointsman("top", "--name", busy, "--every", "0.1")
    assert (shown.returncode, shown.stderr) == (0, "")
    for text in ("Endpoints", "ask", "Backends", "[bold]model", "requests/s", "p99 ms", "the last 10s"):
        assert text in shown.stdout


def test_top_as_json(busy: str) -> None:
    """A script reads the same as the client's stats."""
    shown = pointsman("top", "--name", busy, "--json", "--every", "0.1")
    stats = json.loads(shown.stdout)
    assert stats["backends"]["[bold]model"]["replicas"] == 1
    assert stats["seconds"] >= 0.1


def test_status_can_be_watched(busy: str) -> None:
    """In a pipe it is the status, once."""
    shown = pointsman("status", "--name", busy, "--watch")
    assert "RUNNING" in shown.stdout
    assert shown.returncode == 0


LATENCIES = {"p50": 1.5, "p95": 2.25, "p99": 1234.5, "mean": 1.75, "count": 5}


def window(per_second: float, errors: int) -> dict[str, object]:
    return {"10s": {"per_second": per_second, "errors": errors, "latency_ms": LATENCIES}}


STATS = {
    "endpoints": {"ask": {"windows": window(123456.0, 0), "queued": 3, "backends": {}, "shadows": {}}},
    "backends": {
        "a-model-with-quite-a-long-name": {
            "requests": 5,
            "windows": window(12.5, 7),
            "processing": 1,
            "queued": 2,
            "batch_size": 3.25,
            "replicas": 4,
        }
    },
}


@pytest.mark.parametrize("width", [120, 80, 60, 40])
def test_numbers_stay_whole_on_a_narrow_terminal(width: int) -> None:
    """In a small window some columns are left out, and those that are there can be read."""
    output = io.StringIO()
    Console(file=output, width=width).print(stats_tables(STATS, "title"))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    heads = [line.split() for line in lines if "requests/s" in line]
    assert [head[:2] for head in heads] == [["endpoint", "requests/s"], ["backend", "requests/s"]]
    values = [line.split() for line in lines if "123,456" in line or "12.5" in line]
    assert values[0][0] == "ask"
    assert [value[-1] for value in values] == [
        "1,234" if width == 40 else "3",
        "4" if width >= 80 else "2" if width == 60 else "1,234",
    ]
    assert ("batch" in output.getvalue()) is (width == 120)
    for columns in ("p99 ms", "errors"):
        assert columns in output.getvalue()


def test_an_instance_without_requests_shows_that_it_has_none() -> None:
    """Right after the start there is nothing to show, which is said."""
    output = io.StringIO()
    Console(file=output, width=80).print(stats_tables({"endpoints": {}, "backends": {}}, "title"))
    assert "Endpoints: none yet" in output.getvalue()
    assert "Backends: none yet" in output.getvalue()


def until(terminal: int, text: bytes, count: int = 1) -> bytes:
    """Read from a terminal until a text has been there so often."""
    seen, deadline = b"", time.monotonic() + WAIT_S
    while seen.count(text) < count:
        assert select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0], f"{text!r} not in {seen!r}"
        seen += os.read(terminal, 65536)
    return seen


WATCHING = [(["top", "--every", "0.2"], b"p99 ms"), (["status", "--watch"], b"RUNNING")]


@contextlib.contextmanager
def on_a_terminal(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The program on a terminal of its own, and the end from which that is read."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "50"}
    program = subprocess.Popen([PROGRAM, *command], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    try:
        yield program, ours
    finally:
        program.kill()
        program.wait()
        os.close(ours)


@pytest.mark.parametrize(("command", "text"), WATCHING)
def test_a_terminal_is_redrawn_until_ctrl_c(busy: str, command: list[str], text: bytes) -> None:
    """On a terminal the picture moves; Ctrl-C gives my screen back, without a traceback."""
    with on_a_terminal(*command, "--name", busy) as (watching, terminal):
        until(terminal, text, count=4)
        watching.send_signal(signal.SIGINT)
        left = until(terminal, b"\x1b[?1049l")
        assert b"Traceback" not in left
        assert watching.wait(WAIT_S) == 0


def test_the_end_of_what_is_watched_is_told(name: str) -> None:
    """The instance is shut down elsewhere while I watch it: I get my screen back, and one line says why."""
    with serve.start(True, name=name, http_options={"port": 0}, metrics_export_port=0) as client:
        client.create_backend("model", lambda request: "ok")
        with contextlib.ExitStack() as stack:
            watching = []
            for command, text in WATCHING:
                watching.append(stack.enter_context(on_a_terminal(*command, "--name", name)))
                until(watching[-1][1], text, count=2)
            client.shutdown()
            for program, terminal in watching:
                left = until(terminal, b"the instance has ended\r\n")
                assert b"\x1b[?1049l" in left
                assert b"Traceback" not in left
                assert program.wait(WAIT_S) == 1
