"""What processes print, on a disk that takes nothing."""

from __future__ import annotations

import os
from pathlib import Path

from pointsman.engine.output import OutputPump
from tests.conftest import wait_until


def test_a_disk_without_room_holds_nobody_up(tmp_path: Path) -> None:
    """A log that cannot be opened or written loses lines, and whoever prints goes on; once there is room the log does,
    too (F17)."""
    folder = tmp_path / "logs"
    pump = OutputPump(folder, echo=False)
    reading, writing = os.pipe()
    pump.add(reading, "b#abcdef", "replica-1")
    pump.write("supervisor", "something happened")
    for _ in range(64):
        os.write(writing, b"x" * 16384 + b"\n")  # far more than a pipe holds
    folder.mkdir()

    def log() -> bytes:
        os.write(writing, b"there is room\n")
        path = folder / "replica-1.log"
        return path.read_bytes() if path.exists() else b""

    wait_until(lambda: b"there is room\n" in log(), what="the log goes on")
    pump.write("supervisor", "and here")
    os.close(writing)
    wait_until(lambda: (folder / "supervisor.log").exists())
    pump.close()
    assert (folder / "supervisor.log").read_bytes() == b"and here\n"
