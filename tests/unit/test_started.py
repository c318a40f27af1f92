"""wire.started: the file from which a router learns what a dead replica had begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pointsman.wire.started import SLOTS, StartedCalls, StartedReader, path_of


@pytest.fixture
def path(tmp_path: Path) -> str:
    return path_of(str(tmp_path / "7"))


def test_the_file_lies_beside_the_socket() -> None:
    """Who knows a replica's address knows its file."""
    assert path_of("/run/x/r/7") == "/run/x/r/7.started"


def test_calls_begin_and_end(path: str) -> None:
    """What has begun and not ended is in the file; nothing else is (F2)."""
    calls = StartedCalls(path)
    reader = StartedReader(path)
    assert reader.calls(1) == frozenset()
    marks = {call_id: calls.begin(1, call_id) for call_id in (5, 6, 7)}
    assert reader.calls(1) == {5, 6, 7}
    calls.end(marks[6])
    assert reader.calls(1) == {5, 7}
    calls.begin(1, 8)
    assert reader.calls(1) == {5, 7, 8}
    for call_id in (5, 7):
        calls.end(marks[call_id])
    assert reader.calls(1) == {8}


def test_connections_are_told_apart(path: str) -> None:
    """Routers number their calls by themselves, so that equal numbers are different calls (F2)."""
    calls = StartedCalls(path)
    here, there = 2**63 - 1, 3
    mark = calls.begin(here, 1)
    calls.begin(there, 1)
    calls.begin(there, 2)
    calls.end(mark)
    reader = StartedReader(path)
    assert reader.calls(here) == frozenset()
    assert reader.calls(there) == {1, 2}
    assert reader.calls(4) == frozenset()


def test_large_numbers(path: str) -> None:
    """Numbers of 64 bits are kept whole."""
    StartedCalls(path).begin(2**64 - 1, 2**64 - 1)
    assert StartedReader(path).calls(2**64 - 1) == {2**64 - 1}


def test_every_slot_can_be_used_and_used_again(path: str) -> None:
    """A file has room for its number of calls at a time, for ever (F2)."""
    calls = StartedCalls(path)
    reader = StartedReader(path)
    for _ in range(2):
        marks = [calls.begin(1, call_id) for call_id in range(1, SLOTS + 1)]
        assert reader.calls(1) == set(range(1, SLOTS + 1))
        for mark in marks:
            calls.end(mark)
        assert reader.calls(1) == frozenset()


def test_more_calls_than_slots_cannot_be_told(path: str) -> None:
    """A replica that has started more than fits says so, and every call counts as started (G3)."""
    calls = StartedCalls(path)
    marks = [calls.begin(1, call_id) for call_id in range(1, SLOTS + 2)]
    reader = StartedReader(path)
    assert reader.calls(1) is None
    for mark in marks:
        calls.end(mark)  # that of the call without a slot included
    assert reader.calls(1) in (None, frozenset())


def test_without_a_file_nothing_is_known(path: str) -> None:
    """Where there is no file every call counts as started (G3)."""
    reader = StartedReader(path)
    assert reader.calls(1) is None
    reader.close()
    reader.close()


def test_a_short_file_says_nothing(path: str) -> None:
    """A file that was not made in full is no evidence."""
    Path(path).write_bytes(b"\0" * 100)
    assert StartedReader(path).calls(1) is None


def test_a_closed_reader_says_nothing(path: str) -> None:
    """After its end a reader does not read some other file by chance."""
    StartedCalls(path)
    reader = StartedReader(path)
    reader.close()
    assert reader.calls(1) is None


def test_a_file_that_was_removed_is_read_by_who_has_it_open(path: str) -> None:
    """A router that knew the replica can still ask when the supervisor has cleaned up (F2)."""
    calls = StartedCalls(path)
    reader = StartedReader(path)
    calls.begin(1, 5)
    os.unlink(path)
    assert reader.calls(1) == {5}


def test_a_new_replica_begins_with_an_empty_file(path: str) -> None:
    """What is left of another replica at the same place is gone."""
    StartedCalls(path).begin(1, 5)
    StartedCalls(path)
    assert StartedReader(path).calls(1) == frozenset()


def test_the_file_is_private(path: str) -> None:
    """Nobody else may read or write what a replica does, whatever the umask (S6)."""
    before = os.umask(0)
    try:
        StartedCalls(path)
    finally:
        os.umask(before)
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_symlink_is_not_followed(path: str, tmp_path: Path) -> None:
    """A symlink in its place makes the replica fail, and the router know nothing; its target stays as it was (S6)."""
    target = tmp_path / "precious"
    target.write_bytes(b"data")
    os.symlink(target, path)
    with pytest.raises(OSError, match="symbolic"):
        StartedCalls(path)
    assert StartedReader(path).calls(1) is None
    assert target.read_bytes() == b"data"


def test_threads_may_share_it(path: str) -> None:
    """Calls that begin on the thread and end on the loop do not disturb each other."""
    calls = StartedCalls(path)
    reader = StartedReader(path)
    kept: list[int] = []

    def use(connection: int) -> None:
        for call_id in range(1, 500):
            mark = calls.begin(connection, call_id)
            if call_id % 100:
                calls.end(mark)
        kept.append(connection)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(kept) == [1, 2, 3, 4]
    for number in range(1, 5):
        assert reader.calls(number) == {100, 200, 300, 400}


PROCESS = """
import sys, itertools
from pointsman.wire.started import StartedCalls
calls = StartedCalls(sys.argv[1])
for call_id in (1, 2, 3):
    calls.begin(9, call_id)
print("ready", flush=True)
for call_id in itertools.count(10):
    calls.end(calls.begin(9, call_id))
"""


def test_a_killed_process_leaves_a_readable_file(path: str) -> None:
    """A SIGKILL in the midst of beginning and ending calls leaves those that ran, and at most one more (F1, F2)."""
    with subprocess.Popen([sys.executable, "-c", PROCESS, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        reader = StartedReader(path)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    left = reader.calls(9)
    assert left is not None
    assert {1, 2, 3} <= left
    assert len(left) <= 4
