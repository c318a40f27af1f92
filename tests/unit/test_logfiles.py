"""engine.logfiles: log files of several processes as one, merged and followed; and how those files are named."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from pointsman.engine.logfiles import Entry, LogFile, LogFolder
from pointsman.engine.lognames import LogCard, backend_in, name_of, name_of_backend


def at(second: float, text: str, level: str = "WARNING") -> str:
    """A line of a logger."""
    return f"2026-11-28T09:30:{second:06.3f}Z {level} mine: {text}"


def first_line(source: str) -> str:
    return f"2026-11-28T09:30:00.000Z INFO pointsman.supervisor: output of {source}"


def write(folder: Path, source: str, *lines: str, end: str = "\n") -> Path:
    """Add to the file of a process, as the supervisor does."""
    path = folder / f"{name_of('replica', 1, source) if '#' in source else source}.log"
    begin = "" if path.exists() else f"{first_line(source)}\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(begin + "\n".join(lines) + end)
    return path


def everything(file: LogFile) -> bool:
    return True


def shown(entries: Iterable[Entry]) -> list[str]:
    """As on the terminal, less the first line of each file."""
    return [f"[{e.source}] {line}" for e in entries for line in e.lines if "output of" not in line]


def read(folder: Path) -> list[str]:
    return shown(LogFolder([folder], everything).entries(to_the_end=True))


# --- merging --------------------------------------------------------------------------------------------------------


def test_lines_of_all_processes_are_merged_by_time(tmp_path: Path) -> None:
    """Three processes have logged in turn, and I read what happened in its order."""
    write(tmp_path, "b#aaaaaa", at(1, "one"), at(4, "four"))
    write(tmp_path, "b#bbbbbb", at(2, "two"), at(5, "five"))
    write(tmp_path, "ingress", at(3, "three"))
    assert [line.rpartition(" ")[2] for line in read(tmp_path)] == ["one", "two", "three", "four", "five"]


def test_further_lines_stay_with_their_first(tmp_path: Path) -> None:
    """A traceback is not torn apart by what others say at the same time, and has the ids of its first line."""
    trace = ["    Traceback (most recent call last):", '      File "m.py", line 1', "    ValueError: x"]
    write(tmp_path, "b#aaaaaa", at(1, "[id1] failed", "ERROR"), *trace, at(9, "later"))
    write(tmp_path, "b#bbbbbb", at(2, "[id2] other"))
    entries = [entry for entry in LogFolder([tmp_path], everything).entries() if entry.is_about("id1")]
    assert shown(entries) == [f"[b#aaaaaa] {line}" for line in (at(1, "[id1] failed", "ERROR"), *trace)]


def test_printed_lines_keep_their_place(tmp_path: Path) -> None:
    """What code prints has no time: it stays where it is in its file, between the lines that have one."""
    write(tmp_path, "b#aaaaaa", "printed first", at(1, "one"), "printed", "  indented", at(3, "three"))
    write(tmp_path, "b#bbbbbb", at(2, "two"), at(4, "four"))
    assert [line.partition("] ")[2] for line in read(tmp_path)] == [
        "printed first",
        at(1, "one"),
        "printed",
        "  indented",
        at(2, "two"),
        at(3, "three"),
        at(4, "four"),
    ]


def test_a_clock_that_was_set_back_tears_no_file_apart(tmp_path: Path) -> None:
    """Lines of one process come in the order in which it wrote them, whatever its clock said (F32)."""
    lines = [at(5, "one"), at(2, "two"), at(6, "three")]
    write(tmp_path, "b#aaaaaa", *lines)
    assert read(tmp_path) == [f"[b#aaaaaa] {line}" for line in lines]


def test_json_lines_are_merged_too(tmp_path: Path) -> None:
    """Lines that are JSON have time and request in fields; one file may hold both kinds, and what only looks like
    them."""
    packed = json.dumps(
        {
            "level": "ERROR",
            "logger": "m",
            "time": "2026-11-28T09:30:02.000+00:00",
            "message": "x",
            "pid": 1,
            "request_ids": ["id2"],
        }
    )
    write(tmp_path, "b#aaaaaa", packed, "    printed", '{"level":"no more')
    write(tmp_path, "b#bbbbbb", at(1, "[id1] one"), at(3, "[id3,id2] three"))
    entries = [*LogFolder([tmp_path], everything).entries()]
    assert [entry.time[-6:] for entry in entries if entry.head and entry.head.level != "INFO"] == [
        "01.000",
        "02.000",
        "03.000",
    ]
    assert shown(entry for entry in entries if entry.is_about("id2")) == [
        f"[b#aaaaaa] {packed}",
        f"[b#bbbbbb] {at(3, '[id3,id2] three')}",
    ]


OURS = {"level": "INFO", "logger": "m", "time": "2026-11-28T09:30:02.000+00:00", "message": "x", "pid": 1}


@pytest.mark.parametrize(
    "printed",
    [
        json.dumps({**OURS, "time": "Tue 28"}),
        json.dumps({**OURS, "time": 1764322202.0}),
        json.dumps({**OURS, "time": "2099-11-28"}),
        json.dumps({**OURS, "pid": "1"}),
        json.dumps({**OURS, "message": None}),
        json.dumps({"level": "info", "time": "2026-11-28T09:30:02.000+00:00"}),
        json.dumps({name: value for name, value in OURS.items() if name != "logger"}),
        '{"level":' + "[" * 200_000,
        '{"level":' + "9" * 10_000 + "}",
        '{"level":1}',
    ],
    ids=lambda printed: printed[:60],
)
def test_json_that_user_code_prints(printed: str, tmp_path: Path) -> None:
    """JSON lines of a logger of my own keep their place behind the replica's name, and no line after them is out of
    order, whatever they hold."""
    write(tmp_path, "b#aaaaaa", at(1, "one"), printed, at(3, "three"))
    [_, one, own, three] = LogFolder([tmp_path], everything).entries(to_the_end=True)
    assert (own.head, own.time, own.lines) == (None, one.time, [printed])
    assert three.time > one.time


def test_the_end_may_have_no_end_of_line(tmp_path: Path) -> None:
    """The last words of a process that died are shown, and bytes that are no text, too."""
    path = write(tmp_path, "b#aaaaaa", "last words", end="")
    assert read(tmp_path) == ["[b#aaaaaa] last words"]
    path.write_bytes(path.read_bytes() + b" \xff\xfe")
    assert read(tmp_path) == ["[b#aaaaaa] last words ��"]


def test_an_entry_without_an_end_fits_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ever so many indented lines are shown as they come."""
    monkeypatch.setattr("pointsman.engine.logfiles.MAX_ENTRY_LINES", 3)
    write(tmp_path, "b#aaaaaa", at(1, "[id1] one"), *["    more"] * 10)
    entries = [entry for entry in LogFolder([tmp_path], everything).entries() if entry.is_about("id1")]
    assert [len(entry.lines) for entry in entries] == [3, 3, 3, 2]


# --- following ------------------------------------------------------------------------------------------------------


def test_files_are_followed(tmp_path: Path) -> None:
    """What is added is shown once it is a whole line, and a process that starts later, too."""
    write(tmp_path, "b#aaaaaa", at(1, "one"))
    folder = LogFolder([tmp_path], everything)
    assert shown(folder.entries()) == [f"[b#aaaaaa] {at(1, 'one')}"]
    assert shown(folder.entries()) == []
    write(tmp_path, "b#aaaaaa", at(2, "tw"), end="")
    (tmp_path / "replica-b-cccccc.log").touch()  # its first line is not there yet
    write(tmp_path, "b#bbbbbb", at(3, "three"))
    folder.scan()
    assert shown(folder.entries()) == [f"[b#bbbbbb] {at(3, 'three')}"]
    write(tmp_path, "b#aaaaaa", "o", "    and more")
    (tmp_path / "replica-b-cccccc.log").write_text(f"{first_line('b#cccccc')}\nprinted\n")
    folder.scan()
    assert shown(folder.entries()) == [
        "[b#cccccc] printed",
        f"[b#aaaaaa] {at(2, 'two')}",
        "[b#aaaaaa]     and more",
    ]
    write(tmp_path, "b#aaaaaa", "    of the same")
    [entry] = folder.entries()
    assert entry.time.endswith("02.000")


def set_aside(path: Path) -> None:
    path.replace(path.with_suffix(".log.1"))


@pytest.mark.parametrize("times", [1, 2])
def test_files_are_followed_when_they_are_set_aside(tmp_path: Path, times: int) -> None:
    """A file that is full goes on in another one, once or twice between two looks: no line is lost or shown twice."""
    path = write(tmp_path, "b#aaaaaa", at(0, "[id0] zero"))
    folder = LogFolder([tmp_path], everything)
    assert len(shown(folder.entries())) == 1
    write(tmp_path, "b#aaaaaa", at(1, "[id1] 1"))
    for number in range(times):
        set_aside(path)
        write(tmp_path, "b#aaaaaa", "    of the line before", at(number + 2, f"[id{number + 2}] {number + 2}"))
    entries = [*folder.entries()]
    assert [line for line in shown(entries) if "of the line" not in line] == [
        f"[b#aaaaaa] {at(number, f'[id{number}] {number}')}" for number in range(1, times + 2)
    ]
    assert [entry.lines for entry in entries if entry.is_about("id1")] == [[at(1, "[id1] 1"), "    of the line before"]]
    assert shown(folder.entries()) == []


def test_what_was_set_aside_before_is_read_first(tmp_path: Path) -> None:
    """The file before is part of the log, and its name is no process of its own."""
    path = write(tmp_path, "b#aaaaaa", at(1, "one"), "half of a very ", end="")
    set_aside(path)
    path.write_text(f"{first_line('b#aaaaaa')}\nlong line\n{at(2, 'two')}\n")
    words = [at(1, "one"), "half of a very long line", at(2, "two")]
    assert read(tmp_path) == [f"[b#aaaaaa] {line}" for line in words]


def test_files_of_a_cluster_are_found_by_cards(tmp_path: Path) -> None:
    """Where Ray names the files, each process leaves word which is its own; Ray's own marks are not shown, nor what the
    worker did before."""
    rays = tmp_path / "worker-1.err"
    rays.write_text(":job_id:01\nof a task before\n")
    card = LogCard(str(rays), os.path.getsize(rays), "b#aaaaaa")
    with rays.open("a", encoding="utf-8") as file:
        file.write(f":actor_name:b#aaaaaa\nprinted\n{at(1, 'one')}\n")
    cards = tmp_path / "logs"
    cards.mkdir()
    (cards / "replica-b-aaaaaa.card").write_text(
        json.dumps({"path": card.path, "begins": card.begins, "source": card.source})
    )
    os.utime(cards / "replica-b-aaaaaa.card", (0, 0))
    entries = [*LogFolder([cards], everything).entries()]
    assert shown(entries) == ["[b#aaaaaa] printed", f"[b#aaaaaa] {at(1, 'one')}"]
    assert entries[0].time.startswith("1970")


# --- names ----------------------------------------------------------------------------------------------------------

ODD = [
    "",
    "..",
    "a/b",
    "../../etc/passwd",
    "x" * 200,
    "x" * 199 + "y",
    "a b",
    "a_b",
    "ä",
    "ö",
    "a#b",
    "\ud800",
    ".hidden",
    "-f",
]


def test_a_folder_that_vanishes_under_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I read the logs of an instance that ends in this moment, and the command does not fail."""
    gone, left = write(tmp_path, "a", "one"), write(tmp_path, "b", "two")
    card = tmp_path / "c.card"
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: [gone, card, left])
    gone.unlink()
    assert read(tmp_path) == ["[b] two"]


def test_names_of_files_are_harmless_and_differ() -> None:
    """No name of a backend leads out of the folder or is too long for it, and no two of them share a file (S12)."""
    names = [name_of("replica", 1, f"{tag}#abcDEF") for tag in ODD]
    assert len(set(names)) == len(ODD)
    for tag, name in zip(ODD, names, strict=True):
        assert "/" not in name
        assert name.isascii()
        assert name.isprintable()
        assert name.startswith("replica-")
        assert len(name) < 120
        assert backend_in(name) == name_of_backend(tag)


@pytest.mark.parametrize("tag", ["greet", "digits-v1.2", "model_3", "UPPER"])
def test_plain_names_stand_in_file_names_as_they_are(tag: str) -> None:
    """Most files are named like their replicas."""
    assert name_of("replica", 7, f"{tag}#abcDEF") == f"replica-{tag}-abcDEF"


def test_other_processes_are_named_after_what_they_are() -> None:
    """There is one controller; HTTP servers are numbered."""
    assert name_of("controller", 0, "controller") == "controller"
    assert name_of("ingress", 2, "ingress") == "ingress-2"
    assert backend_in("ingress-2") == backend_in("controller") == ""
