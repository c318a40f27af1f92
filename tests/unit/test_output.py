"""What processes print: into files, also on a disk that takes nothing, and to a terminal."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pointsman.engine.local import output
from pointsman.engine.local.output import OutputPump
from pointsman.telemetry import logs
from tests.conftest import wait_until

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def test_a_disk_without_room_holds_nobody_up(tmp_path: Path) -> None:
    """A log that cannot be opened or written loses lines, and whoever prints goes on; once there is room the log does,
    too (F17)."""
    folder = tmp_path / "logs"
    pump = OutputPump(folder, echo=False)
    reading, writing = os.pipe()
    pump.add(reading, "b#abcdef", "replica-1")
    pump.write("something happened")
    for _ in range(64):
        os.write(writing, b"x" * 16384 + b"\n")  # far more than a pipe holds
    folder.mkdir()

    def log() -> bytes:
        os.write(writing, b"there is room\n")
        path = folder / "replica-1.log"
        return path.read_bytes() if path.exists() else b""

    wait_until(lambda: b"there is room\n" in log(), what="the log goes on")
    pump.write("and here")
    os.close(writing)
    wait_until(lambda: (folder / "supervisor.log").exists())
    pump.close()
    [line] = (folder / "supervisor.log").read_text().splitlines()
    assert re.fullmatch(rf"{TIME} WARNING pointsman.supervisor: and here", line)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """What is read here was shown on the terminal."""
    reading, writing = os.pipe()
    monkeypatch.setattr(output, "TERMINAL_FD", writing)
    yield reading
    os.close(reading)
    os.close(writing)


def printed(folder: Path, text: bytes, *, label: str = "b#abcdef", log_format: str = logs.TEXT) -> Path:
    """A process has printed this and ended; returns its file."""
    pump = OutputPump(folder, echo=True, log_format=log_format)
    reading, writing = os.pipe()
    pump.add(reading, label, "one")
    os.write(writing, text)
    os.close(writing)
    pump.close()
    return folder / "one.log"


NEWS = "2026-11-28T09:30:00.123Z WARNING pointsman.replica: news"
SMALL_TALK = "2026-11-28T09:30:00.123Z INFO pointsman.controller.observed: b#abcdef is ready"
OF_A_USER = "2026-11-28T09:30:00.123Z INFO pointsman_like.model: loaded"


def test_the_terminal_shows_news_only(tmp_path: Path, terminal: int) -> None:
    """On the terminal I see warnings and all that my code says, each line behind its replica's tag, and none of the
    small talk of the system, which is in the file."""
    lines = [NEWS, SMALL_TALK, OF_A_USER, "printed"]
    path = printed(tmp_path, "\n".join(lines).encode() + b"\n")
    assert os.read(terminal, 65536).decode().splitlines() == [
        f"[b#abcdef] {line}" for line in (NEWS, OF_A_USER, "printed")
    ]
    [first, *rest] = path.read_text().splitlines()
    assert rest == lines
    assert re.fullmatch(rf"{TIME} INFO pointsman.supervisor: output of b#abcdef", first)


def test_the_terminal_shows_news_of_json_lines(tmp_path: Path, terminal: int) -> None:
    """The same where lines are JSON, which say by themselves whose they are; the supervisor's own are JSON, too."""
    news, talk = ({"level": level, "logger": "pointsman.x", "message": "m"} for level in ("WARNING", "INFO"))
    packed = [json.dumps(one, separators=(",", ":")) for one in (news, talk)]
    path = printed(tmp_path, "\n".join(packed).encode() + b"\n", log_format=logs.JSON)
    assert os.read(terminal, 65536).decode().splitlines() == packed[:1]
    first = json.loads(path.read_text().splitlines()[0])
    assert (first["backend"], first["replica"], first["process"]) == ("b", "b#abcdef", "supervisor")


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """What is read here was on standard output."""
    reading, writing = os.pipe()
    monkeypatch.setattr(output, "JSON_FD", writing)
    yield reading
    os.close(reading)
    os.close(writing)


def test_every_line_for_a_collector_is_an_object(tmp_path: Path, collector: int) -> None:
    """A container's log has one JSON object per line: log lines as they are, small talk too, and each line that my code
    prints with time, process, backend and replica; JSON that I print myself is a message like others (PK5)."""
    logged = logs.JSONFormatter("replica", 7).format(logs.record(logging.INFO, "pointsman.replica", "small talk", {}))
    mine = '{"level":"INFO","logger":"pointsman.x","message":"m"}'
    said = [logged, "printed", mine, "", "\u2028é", f"no end{logged}"]
    text = "\n".join(said).encode() + b"\n\xff\x1b[0m\nhalf a li"
    pump = OutputPump(tmp_path, echo=True, log_format=logs.JSON, json_lines=True)
    reading, writing = os.pipe()
    pump.add(reading, "b#abcdef", "one", 4711)
    pump.add(*_printed_by_an_ingress(), "ingress", "two", 4712)
    os.write(writing, text)
    os.close(writing)
    pump.write("a word of the supervisor")
    pump.close()
    lines = os.read(collector, 65536).decode().splitlines()
    read = [json.loads(line) for line in lines]
    assert all(isinstance(one, dict) for one in read)
    of_replica = [one for one in read if one["process"] == "replica"]
    assert lines[read.index(of_replica[0])] == logged
    assert [one["message"] for one in of_replica] == [
        "small talk",
        *said[1:-1],
        "no end",
        "small talk",
        "\ufffd\x1b[0m",
        "half a li",
    ]
    for one in [one for one in of_replica if one["message"] != "small talk"]:
        assert (one["backend"], one["replica"], one["pid"], one["logger"]) == ("b", "b#abcdef", 4711, "print")
        assert logs.head_of(json.dumps(one, separators=(",", ":"))) is not None, "it is read as a log line"
    [of_ingress] = [one for one in read if one["process"] == "ingress"]
    assert (of_ingress["message"], of_ingress["pid"], "replica" in of_ingress) == ("uvloop says", 4712, False)
    assert [one["message"] for one in read if one["process"] == "supervisor"] == ["a word of the supervisor"]
    assert (tmp_path / "one.log").read_bytes().endswith(text + b"\n"), "files have what was printed"


def _printed_by_an_ingress() -> tuple[int]:
    reading, writing = os.pipe()
    os.write(writing, b"uvloop says\n")
    os.close(writing)
    return (reading,)


def test_no_line_is_cut_for_a_collector_that_stalls(tmp_path: Path, collector: int) -> None:
    """A collector stops reading and goes on later: lines are missing, and counted, and none is half of one (PK5)."""
    os.set_blocking(collector, False)
    pump = OutputPump(tmp_path, echo=True, log_format=logs.JSON, json_lines=True)
    reading, writing = os.pipe()
    pump.add(reading, "b#abcdef", "one")
    for number in range(40):
        os.write(writing, f"{number} ".encode() + b"x" * 20_000 + b"\n")
    got = b""

    def goes_on() -> bool:
        nonlocal got
        os.write(writing, b"more\n")
        with contextlib.suppress(BlockingIOError):
            got += os.read(collector, 1 << 20)
        return b"were not shown here" in got and b'"more"' in got.rpartition(b"were not shown here")[2]

    wait_until(goes_on, what="the collector is told what it has missed")
    os.close(writing)
    pump.close()
    whole = got[: got.rindex(b"\n")].decode().splitlines()
    messages = [json.loads(line)["message"] for line in whole]
    shown = [int(text.split()[0]) for text in messages if text.endswith("xxx")]
    assert shown == sorted(shown)
    assert 0 < len(shown) < 40


def test_a_line_that_is_too_long_is_missing_as_a_whole(tmp_path: Path, collector: int) -> None:
    """My code prints a megabyte in one line: the log file has it, and whoever reads the output is told how many bytes
    are missing there, and gets no piece of it (PK5)."""
    pump = OutputPump(tmp_path, echo=True, log_format=logs.JSON, json_lines=True)
    reading, writing = os.pipe()
    pump.add(reading, "b#abcdef", "one")
    os.write(writing, b"before\n" + b"x" * 1_000_000 + b"\nafter\n")
    os.close(writing)
    pump.close()
    messages = [json.loads(line)["message"] for line in os.read(collector, 1 << 20).decode().splitlines()]
    assert messages == ["before", "1000001 bytes of output were not shown here; see the log files", "after"]
    assert (tmp_path / "one.log").read_bytes().endswith(b"x\nafter\n")


def test_files_are_set_aside_between_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is full goes on in a new file, and no line is cut in two; each file says whose it is."""
    monkeypatch.setattr(output, "MAX_LOG_BYTES", 1000)
    pump = OutputPump(tmp_path, echo=False)
    reading, writing = os.pipe()
    pump.add(reading, "b#abcdef", "one")
    lines = [f"line {number} " + "x" * 50 for number in range(30)]
    path = tmp_path / "one.log"
    for line in lines:
        os.write(writing, line[:5].encode())
        os.write(writing, f"{line[5:]}\n".encode())
        wait_until(lambda line=line: line in path.read_text() if path.exists() else False, what=line)
    os.close(writing)
    pump.close()
    kept = [one.read_text().splitlines() for one in (path.with_suffix(".log.1"), path)]
    assert all("output of b#abcdef" in one[0] for one in kept)
    shown = [line for one in kept for line in one[1:]]
    assert shown == lines[-len(shown) :]
    assert len(shown) > 10


def test_a_line_without_an_end_is_one_of_its_own(tmp_path: Path) -> None:
    """What a process printed last before it died does not run into what its successor says."""
    printed(tmp_path, b"half a li")
    lines = printed(tmp_path, b"next\n").read_text().splitlines()
    assert lines[1] == "half a li"
    assert lines[3] == "next"
