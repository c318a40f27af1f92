"""`pointsman top` and `pointsman status --watch`, in a pipe and on a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

import pointsman as serve
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
    for text in ("Endpoints", "ask", "Backends", "[bold]model", "requests/s", "p99 ms", "the last 0.1 s"):
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


def until(terminal: int, text: bytes, count: int = 1) -> bytes:
    """Read from a terminal until a text has been there so often."""
    seen, deadline = b"", time.monotonic() + WAIT_S
    while seen.count(text) < count:
        assert select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0], f"{text!r} not in {seen!r}"
        seen += os.read(terminal, 65536)
    return seen


@pytest.mark.parametrize(
    ("command", "text"), [(["top", "--every", "0.2"], b"p99 ms"), (["status", "--watch"], b"RUNNING")]
)
def test_a_terminal_is_redrawn_until_ctrl_c(busy: str, command: list[str], text: bytes) -> None:
    """On a terminal the picture moves; Ctrl-C gives my screen back, without a traceback."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "50"}
    watching = subprocess.Popen(
        [PROGRAM, *command, "--name", busy], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    try:
        until(ours, text, count=4)
        watching.send_signal(signal.SIGINT)
        left = until(ours, b"\x1b[?1049l")
        assert b"Traceback" not in left
        assert watching.wait(WAIT_S) == 0
    finally:
        watching.kill()
        watching.wait()
        os.close(ours)
