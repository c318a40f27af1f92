"""``pointsman load`` on a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

from tests.loop.load_server import known_server

PROGRAM = str(Path(sys.executable).with_name("pointsman"))


def read_all(terminal: int, until: str = "") -> str:
    """What is drawn, until the other end is closed or the text is there."""
    drawn = b""
    while not until or until.encode() not in drawn:
        try:
            data = os.read(terminal, 65536)
        except OSError:
            break  # as Linux ends a terminal
        if not data:
            break
        drawn += data
    return drawn.decode(errors="replace")


def test_it_draws_while_it_runs() -> None:
    """On a terminal I see rate, errors and a plot while it runs; Ctrl-C leaves the figures so far, 130, and no process
    that draws (LT3)."""
    with known_server() as server:
        terminal, ours = pty.openpty()
        url = f"http://127.0.0.1:{server.port}/ok"
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
        process = subprocess.Popen(
            [PROGRAM, "load", url, "--rate", "50", "--duration", "10m"],
            stdin=ours,
            stdout=ours,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        os.close(ours)
        drawn = read_all(terminal, "solid up to p50")
        os.killpg(process.pid, signal.SIGINT)
        drawn += read_all(terminal)
        assert process.wait(20) == 130
        os.close(terminal)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    for words in ("Ctrl-C ends it", "of 10:00", "requests/s", "open loop", "good answers"):
        assert words in drawn
