"""telemetry.tallies, telemetry.counted, telemetry.windows: what is counted of calls, and what is made of it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from math import exp, log
from pathlib import Path
from statistics import NormalDist
from typing import Any, cast

import msgspec
import pytest

from pointsman.model.evidence import Tally, TallyKey
from pointsman.stats.latency import LONGEST_S, SHORTEST_S, bucket_of, upper_edge
from pointsman.telemetry.counted import _FIRST as FIRST
from pointsman.telemetry.counted import RETIRED, Retired, TallyCollector, TallyReader
from pointsman.telemetry.tallies import HEAD, SEGMENT, SLOT, STAMP, VERSIONS, Tallies, TallyFile
from pointsman.telemetry.values import TALLY_WIDTH, TallyValues, middle_of
from pointsman.telemetry.windows import PERCENTILES, latency_ms, quantile_s

KEY = TallyKey("ask", 7, "model")


def values() -> TallyValues:
    return TallyValues(memoryview(bytearray(TALLY_WIDTH * 8)).cast("d"), 0)


def collected(folder: Path) -> dict[TallyKey, Tally]:
    collector = TallyCollector(folder)
    try:
        return dict(collector.collect().tallies)
    finally:
        collector.close()


# --- percentiles ----------------------------------------------------------------------------------------------

NORMAL = NormalDist()
#: The true quantiles in seconds.
DISTRIBUTIONS: dict[str, Callable[[float], float]] = {
    "always 205 ms": lambda q: 0.205,
    "always 400 ms": lambda q: 0.4,
    "a microsecond": lambda q: 1e-6,
    "uniform": lambda q: 0.001 + 0.1 * q,
    "exponential": lambda q: -log(1 - q) / 20.0,
    "lognormal": lambda q: 0.2 * exp(0.5 * NORMAL.inv_cdf(q)),
    "one of two models": lambda q: 0.205 if q < 0.9 else 0.4,
    "hours": lambda q: 3600.0 * (1 + q),
    "pareto": lambda q: 0.01 * (1 - q) ** (-1 / 3),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_percentiles_are_those_of_the_distribution(name: str) -> None:
    """A model of 205 ms shows 205 ms: p50, p95 and p99 are within 2 % of the true ones, and so is the mean (RO5)."""
    true, tally, total, count = DISTRIBUTIONS[name], values(), 0.0, 20_000
    places = list(range(count))
    random.Random(18).shuffle(places)
    for place in places:
        seconds = true((place + 0.5) / count)
        tally.count(seconds, False)
        total += seconds
    shown = latency_ms(tally.tally())
    for percentile, q in PERCENTILES.items():
        value = shown[percentile]
        assert value is not None
        assert abs(value / (1000 * true(q)) - 1) < 0.02, (percentile, value, true(q))
    assert shown["count"] == count
    assert shown["mean"] == pytest.approx(1000 * total / count, rel=0.01)


def test_nothing_has_no_percentiles() -> None:
    """Before the first request there is nothing to show, and no error."""
    assert latency_ms(Tally()) == {"p50": None, "p95": None, "p99": None, "mean": None, "count": 0}
    assert quantile_s(Tally(requests=3), 0.5) is None


def test_a_latency_is_in_the_bucket_of_the_statistics() -> None:
    """What routers count is what gates read: the same bucket for any latency, also at its edges and beyond them."""
    chance = random.Random(3)
    latencies = [exp(chance.uniform(log(1e-7), log(1e6))) for _ in range(5000)]
    latencies += [upper_edge(bucket) for bucket in range(bucket_of(SHORTEST_S), bucket_of(LONGEST_S) + 1)]
    for seconds in [*latencies, 0.0, SHORTEST_S, LONGEST_S, 1e9]:
        tally = values()
        tally.waited(seconds)
        assert tally.tally().latencies == {bucket_of(seconds): 1}, seconds


# --- files ----------------------------------------------------------------------------------------------------


def test_counts_of_all_processes_are_added_up(tmp_path: Path) -> None:
    """Two HTTP servers count the same version: the controller sees their sum, with errors and latencies (RO5)."""
    files = [TallyFile(tmp_path / "t", "ingress") for _ in range(2)]
    for number, file in enumerate(files):
        tally = Tallies(file).of(KEY)
        for _ in range(10 + number):
            tally.count(0.1, error=number == 1)
        tally.waited(5.0)  # the client has left
    assert collected(tmp_path / "t") == {
        KEY: Tally(21, 11, {bucket_of(0.1): 21, bucket_of(5.0): 2}, pytest.approx(12.1, rel=0.01))
    }
    for file in files:
        file.close()


COUNTS_AND_IS_KILLED = """
import os, signal, sys
from pathlib import Path
from pointsman.model.evidence import TallyKey
from pointsman.telemetry.tallies import Tallies, TallyFile
tally = Tallies(TallyFile(Path(sys.argv[1]), "ingress")).of(TallyKey("ask", 7, "model"))
for _ in range(1000):
    tally.count(0.1, False)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_no_count(tmp_path: Path) -> None:
    """An HTTP server is killed in the middle of its work: what it counted stays, and its file goes (RO11)."""
    folder = tmp_path / "t"
    assert subprocess.run([sys.executable, "-c", COUNTS_AND_IS_KILLED, str(folder)], check=False).returncode == -9
    collector = TallyCollector(folder)
    for _ in range(3):
        assert dict(collector.collect().tallies)[KEY].requests == 1000
    assert sorted(os.listdir(folder)) == ["began", RETIRED]
    collector.close()
    assert collected(folder)[KEY].requests == 1000  # the next controller


def test_a_controller_killed_while_it_merges_counts_nothing_twice(tmp_path: Path) -> None:
    """Counts of an ended process are merged already, and its file is still there (RO11)."""
    folder = tmp_path / "t"
    file = TallyFile(folder, "ingress")
    tally = Tallies(file).of(KEY)
    for _ in range(5):
        tally.count(0.1, False)
    file.close()
    merged = Retired([file.name], [(KEY, tally.tally())])
    (folder / RETIRED).write_bytes(msgspec.msgpack.encode(merged))
    assert collected(folder)[KEY].requests == 5
    assert file.name not in os.listdir(folder)


def test_policies_come_and_go_in_bounded_memory(tmp_path: Path) -> None:
    """A policy is changed a thousand times: its newest versions are known, and the file stays small."""
    folder = tmp_path / "t"
    file = TallyFile(folder, "ingress")
    tallies, collector = Tallies(file), TallyCollector(folder)
    late = tallies.of(TallyKey("ask", 1, "model"))
    for version in range(1, 1001):
        for backend in ("model", "canary"):
            tallies.of(TallyKey("ask", version, backend)).count(0.1, False)
        late.count(0.1, True)  # a call of the first version takes its time
        if version % 50 == 0:
            known = dict(collector.collect().tallies)
            assert {key.policy_version for key in known} == set(range(version - VERSIONS + 1, version + 1))
            assert all(tally == Tally(1, 0, {bucket_of(0.1): 1}, middle_of(bucket_of(0.1))) for tally in known.values())
    assert os.path.getsize(folder / file.name) <= 2 * SEGMENT
    tallies.forget(lambda key: key.backend == "canary")
    assert {key.backend for key, _ in collector.collect().tallies} == {"model"}
    tallies.forget(lambda key: key.endpoint == "ask")
    assert collector.collect().tallies == []
    collector.close()
    file.close()


def test_one_server_that_is_behind_brings_no_old_version_back(tmp_path: Path) -> None:
    """A server whose endpoint is idle still has version 1; others have given it up. Nobody sees it again."""
    folder = tmp_path / "t"
    idle, busy = TallyFile(folder, "ingress"), TallyFile(folder, "ingress")
    Tallies(idle).of(TallyKey("ask", 1, "model")).count(0.1, False)
    tallies = Tallies(busy)
    for version in range(1, 7):
        tallies.of(TallyKey("ask", version, "model")).count(0.1, False)
    assert sorted(key.policy_version for key in collected(folder)) == [3, 4, 5, 6]
    idle.close()
    busy.close()


def test_a_slot_that_is_used_again_is_never_read_half(tmp_path: Path) -> None:
    """While a slot gets another key, a reader finds neither; afterwards it finds the new one from 0."""
    folder = tmp_path / "t"
    file = TallyFile(folder, "ingress")
    old = file.take(KEY)
    old.count(0.1, False)
    reader = TallyReader(folder / file.name)
    assert dict(reader.read()) == {KEY: Tally(1, 0, {bucket_of(0.1): 1}, middle_of(bucket_of(0.1)))}
    memory = file._segments[0][0]
    stamp = HEAD.unpack_from(memory, 0)[0]
    STAMP.pack_into(memory, 0, 0)
    assert dict(reader.read()) == {}
    STAMP.pack_into(memory, 0, stamp)
    file.free(old)
    other = KEY._replace(policy_version=8)
    new = file.take(other)
    old.count(0.1, True)
    assert dict(reader.read()) == {other: Tally()}
    new.count(0.2, True)
    assert dict(reader.read()) == {other: Tally(1, 1, {bucket_of(0.2): 1}, middle_of(bucket_of(0.2)))}
    memory[16:24] = b"\xff" * 8  # user code may run in the process that writes
    STAMP.pack_into(memory, 0, 77)
    assert dict(reader.read()) == {}
    reader.close()
    file.close()


def test_a_key_that_is_being_replaced_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is warned of half a key that a reader meets while its slot is used again."""
    folder = tmp_path / "t"
    file = TallyFile(folder, "ingress")
    old = file.take(KEY)
    reader = TallyReader(folder / file.name)

    class Meanwhile:
        """Reads, and has the writer go on before anything else is read."""

        def unpack_from(self, memory: bytes, at: int) -> tuple[float, ...]:
            file.free(old)
            file._segments[0][0][HEAD.size : HEAD.size + 4] = b"half"
            return FIRST.unpack_from(memory, at)

    monkeypatch.setattr("pointsman.telemetry.counted._FIRST", Meanwhile())
    assert dict(reader.read()) == {}
    assert caplog.records == []
    reader.close()
    file.close()


def test_a_reading_at_any_moment_loses_no_latency(tmp_path: Path) -> None:
    """However a reading and a call that is counted meet, the next reading has all of the call."""
    folder = tmp_path / "t"
    file = TallyFile(folder, "ingress")
    tally = file.take(KEY)
    reader, memory = TallyReader(folder / file.name), tally.values

    class Watched:
        """Memory that is read after each write."""

        def __getitem__(self, place: int) -> float:
            return memory[place]

        def __setitem__(self, place: int, value: float) -> None:
            memory[place] = value
            list(reader.read())

    tally.values = cast(Any, Watched())
    for number, count in enumerate((lambda: tally.count(0.1, False), lambda: tally.waited(0.1)), 1):
        count()
        assert dict(reader.read())[KEY].latencies == {bucket_of(0.1): number}
    reader.close()
    file.close()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_process_that_spoils_its_own_counts_spoils_no_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, number: float
) -> None:
    """User code that has written into its process's memory costs its own counts, and those of others still count
    (RO11)."""
    good, bad = TallyFile(tmp_path, "ingress"), TallyFile(tmp_path, "replica")
    good.take(KEY).count(0.01, False)
    spoilt = bad.take(KEY._replace(backend="other"))
    spoilt.values[spoilt.at] = number
    collector = TallyCollector(tmp_path)
    for _ in range(3):
        assert [key for key, _ in collector.collect().tallies] == [KEY]
    assert len(caplog.records) == 1  # said once
    collector.close()
    good.close()
    bad.close()


def test_a_file_that_cannot_be_removed_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While files cannot be removed, requests of an HTTP server that has ended are still counted once (RO11)."""

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise OSError("read-only")

    collector = TallyCollector(tmp_path)
    for _ in range(2):
        file = TallyFile(tmp_path, "ingress")
        file.take(KEY).count(0.01, False)
        collector.collect()
        file.close()
        with monkeypatch.context() as context:
            context.setattr(Path, "unlink", refuse)
            with pytest.raises(OSError, match="read-only"):
                collector.collect()
    assert [tally.requests for _, tally in collector.collect().tallies] == [2]
    collector.close()
    assert collected(tmp_path)[KEY].requests == 2


def test_a_slot_has_room_for_the_longest_names() -> None:
    """Names of 200 characters of four bytes each are counted."""
    from pointsman.telemetry.tallies import MAX_KEY

    assert len(msgspec.msgpack.encode(TallyKey("\U0001f600" * 200, 2**60, "\U0001f600" * 200, "shadow"))) <= MAX_KEY
    assert SLOT % 8 == 0


def test_a_full_disk_costs_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls go on where nothing can be written; they are not counted, which is said once."""

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    monkeypatch.setattr(os, "ftruncate", full)
    tallies = Tallies(TallyFile(tmp_path / "t", "ingress"))
    tallies.of(KEY).count(0.1, False)
    tallies.of(KEY._replace(policy_version=8)).count(0.1, False)
    assert collected(tmp_path / "t") == {}


def test_a_forked_child_counts_for_itself(tmp_path: Path) -> None:
    """User code forks: what the child counts is not added to its parent's numbers."""
    folder = tmp_path / "t"
    file = TallyFile(folder, "client")
    tally = Tallies(file).of(KEY)
    tally.count(0.1, False)
    child = os.fork()
    if not child:
        tally.count(0.1, False)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    tally.count(0.1, False)
    assert collected(folder)[KEY].requests == 2
    file.close()


def test_without_an_instance_s_folder_nothing_is_counted(tmp_path: Path) -> None:
    """A driver on a machine where the instance has nothing: its calls work, and are counted nowhere."""
    assert TallyFile.open(tmp_path / "gone" / "t", "client") is None
    Tallies(None).of(KEY).count(0.1, False)
