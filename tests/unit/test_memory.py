"""engine.memory: what is left of the memory of a machine, or of a container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pointsman.engine import memory

MEMINFO = "MemTotal:       4000 kB\nMemFree:   100 kB\nMemAvailable:   3000 kB\n"
#: Files of a container of 2,000,000 bytes, of which 1,900,000 are in use, 600,000 of them by files that can be dropped.
CONTAINERS = {
    "v2": {"memory.max": "2000000\n", "memory.current": "1900000\n", "memory.stat": "file 1\ninactive_file 600000\n"},
    "v1": {
        "memory/memory.limit_in_bytes": "2000000",
        "memory/memory.usage_in_bytes": "1900000",
        "memory/memory.stat": "inactive_file 5\ntotal_inactive_file 600000",
    },
}


@pytest.fixture(autouse=True)
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text(MEMINFO)
    return tmp_path


@pytest.mark.parametrize("files", CONTAINERS.values(), ids=CONTAINERS.keys())
def test_what_a_container_has(system: Path, files: dict[str, str]) -> None:
    """In a container its limit counts; files that are only cached are not in the way (PK6, LT4)."""
    for name, text in files.items():
        (system / name).parent.mkdir(exist_ok=True)
        (system / name).write_text(text)
    assert memory.container_memory() == (2_000_000, 700_000)
    assert memory.memory_left() == 700_000
    (system / "meminfo").write_text("MemAvailable: 300 kB\n")
    assert memory.memory_left() == 300 * 1024


@pytest.mark.parametrize("limit", ["max", None])
def test_no_limit(system: Path, limit: str | None) -> None:
    """Without a limit the machine's memory counts; where nothing is said, nothing is known (PK6, LT4)."""
    if limit:
        (system / "memory.max").write_text(limit)
        (system / "memory.current").write_text("5")
    assert memory.container_memory() is None
    assert memory.memory_left() == 3000 * 1024
    (system / "meminfo").unlink()
    assert memory.memory_left() is None


def test_what_processes_have() -> None:
    """Memory of processes adds up, and one that is gone has none (PK6)."""
    mine = memory.own_memory([os.getpid()])
    assert mine > 1_000_000
    assert memory.own_memory([os.getpid(), os.getpid()]) > 1.5 * mine
    assert memory.own_memory([2**22 + 1]) == 0
