"""The drawings of the pages in docs/concepts.

    python docs/plots/concepts.py    # writes the SVG files into docs/concepts

Owners of keys, intervals and evidence are those of the code that serves; what a request costs and how long a process is
missed are read from the pages that say so. A test draws them again and finds the same.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from math import cos, pi, sin
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import judging
from drawing import Drawing

from pointsman.policy.rendezvous import Rendezvous

DOCS = Path(__file__).parent.parent
FOLDER = DOCS / "concepts"


def processes() -> str:
    """The tree, and who dials whom."""
    drawing = Drawing(
        "Processes of an instance",
        "Calls go from HTTP clients to the HTTP server and on to a replica, and from a script's handle straight to a"
        " replica. HTTP server, replicas, console and scripts dial the controller, which dials nobody. The supervisor"
        " holds the ports, and starts and restarts all of them.",
        590,
    )
    drawing.box(16, 20, 170, ["HTTP clients"])
    drawing.box(270, 20, 194, ["your script", "or a command"])
    drawing.rectangle(16, 124, 448, 378, "frame")
    drawing.box(32, 160, 160, ["HTTP server", "routes, chooses", "one or several"])
    drawing.box(320, 160, 128, ["controller", "decides", "and stores"])
    drawing.box(320, 280, 128, ["console", "the page"])
    drawing.box(32, 370, 160, ["replicas", "your code"])
    drawing.arrow([(101, 57), (101, 160)], "line", "dark")
    drawing.arrow([(101, 239), (101, 370)], "line", "dark")
    drawing.arrow([(285, 78), (285, 100), (226, 100), (226, 388), (192, 388)], "line", "dark")
    drawing.text(110, 310, "calls")
    drawing.text(234, 364, "handles")
    drawing.arrow([(384, 78), (384, 160)], "ask", "tip")
    drawing.arrow([(384, 280), (384, 239)], "ask", "tip")
    drawing.arrow([(192, 185), (320, 185)], "ask", "tip")
    drawing.arrow([(192, 412), (306, 412), (306, 214), (320, 214)], "ask", "tip")
    drawing.text(32, 462, "supervisor: holds the ports, starts", "bold")
    drawing.text(32, 484, "and restarts all that is in this frame", "bold")
    drawing.arrow([(24, 528), (84, 528)], "line", "dark")
    drawing.text(96, 534, "carries calls and answers")
    drawing.arrow([(24, 560), (84, 560)], "ask", "tip")
    drawing.text(96, 566, "dials: orders, tables, reports")
    return drawing.svg()


DEATHS = (
    ("a replica", ("wait", "on", "on"), "F1"),
    ("the HTTP server", ("cut", "wait", "on"), "F10"),
    ("the controller", ("on", "on", "wait"), "F8"),
    ("the console", ("on", "on", "on"), ""),
    ("the supervisor", ("cut", "cut", "cut"), None),
)
"""Who dies; what becomes of HTTP calls under way, new ones and changes; and the row of the page that measured it."""


def recovery(row: str) -> str:
    """The longest recovery of a row of the page of faults, on one machine."""
    local = (DOCS / "faults.md").read_text().partition("<!-- faults: local -->")[2]
    cells = next(line for line in local.splitlines() if line.startswith(f"| {row} |")).split(" | ")
    return f"{cells[7].split()[0]} s"


def deaths() -> str:
    """What goes on when one of them dies."""
    drawing = Drawing(
        "What goes on when a process dies",
        "When a replica dies, calls that had not started wait for another one. When the HTTP server dies, its calls are"
        " cut and new ones wait. When the controller dies, only changes wait. When the console dies, all else goes on."
        " With the supervisor the instance ends.",
        350,
    )
    columns = (188, 262, 336)
    drawing.text(16, 56, "who dies", "bold")
    for x, title in zip(columns, (("calls", "now"), ("new", "calls"), ("", "changes")), strict=True):
        drawing.lines(x, 35, title, "bold", "middle")
    drawing.lines(464, 35, ("back", "after"), "bold", "end")
    for number, (who, cells, row) in enumerate(DEATHS):
        y = 94 + 40 * number
        drawing.line([(16, y - 26), (464, y - 26)], "thin")
        drawing.text(16, y, who)
        for x, what in zip(columns, cells, strict=True):
            sign(drawing, x, y - 6, what)
        drawing.text(464, y, recovery(row) if row else ("never" if row is None else "seconds"), "", "end")
    drawing.line([(16, 268), (464, 268)], "thin")
    for x, y, what, words in (
        (28, 294, "on", "goes on"),
        (176, 294, "wait", "waits, then goes on"),
        (28, 324, "cut", "ends: cut, or refused"),
    ):
        sign(drawing, x, y - 6, what)
        drawing.text(x + 18, y, words)
    return drawing.svg()


def sign(drawing: Drawing, x: float, y: float, what: str) -> None:
    """A full circle, one with its lower half full, or an empty one with a cross."""
    if what == "on":
        drawing.dot(x, y, "dark", 9)
        return
    drawing.dot(x, y, "ring", 9)
    if what == "wait":
        drawing.area([(x + 9 * cos(pi * step / 12), y + 9 * sin(pi * step / 12)) for step in range(13)], "mid")
    else:
        drawing.line([(x - 5, y - 5), (x + 5, y + 5)])
        drawing.line([(x - 5, y + 5), (x + 5, y - 5)])


def costs() -> Mapping[tuple[str, str], float]:
    """Microseconds of each stage, of ``async def`` with 32 connections, from the table of the page."""
    rows = re.findall(
        r"^\| (ingress|replica) \| ([^|]+) \|.*→ ([\d.]+) \|$", (DOCS / "performance.md").read_text(), re.M
    )
    return {(process, stage.strip("* ")): float(cost) for process, stage, cost in rows}


STAGES = (
    ("ingress", "HTTP: read the head, own the connection", "read the head"),
    ("ingress", "HTTP: match, check, count, write the answer", "match, check, count"),
    ("ingress", "choose backend and replica", "choose backend, replica"),
    ("", "no replica has room: the call waits", "max_queued_queries, deadline"),
    ("ingress", "wire: messages, frames, the connection", "wire, there and back"),
    ("ingress", "event loop, reads, waking", "event loop"),
    ("replica", "wire: messages, frames, the connection", "wire, there and back"),
    ("replica", "admit, mark as started, keep the ledger", "admit, mark as started"),
    ("", "batches only: waits for others", "max_batch_size, a wait or a target"),
    ("replica", "run user code, encode its answer", "your code, its answer"),
    ("replica", "event loop, reads, waking", "event loop"),
)


def request() -> str:
    """The stages of a request."""
    known = costs()
    drawing = Drawing(
        "The life of a request, with what each stage costs",
        "In the HTTP server a request is read, matched and checked, and a backend and a replica are chosen; where no"
        " replica has room it waits in a queue. In the replica it is admitted, may wait for a batch, and runs. Bars"
        " are microseconds of processor time of a call of a function that does nothing.",
        558,
    )
    y = 34
    before = None
    for process, stage, words in STAGES:
        if process and process != before:
            before = process
            name = {"ingress": "HTTP server", "replica": "replica"}[process]
            y += 8 if process == "replica" else 0
            drawing.text(16, y, name, "bold")
            drawing.text(464, y, f"{known[process, 'all']:g} µs in all", "bold", "end")
            y += 32
        if not process:
            drawing.rectangle(16, y - 20, 448, 56, "wait")
            drawing.text(28, y + 2, stage)
            drawing.text(28, y + 24, words, "soft")
            y += 68
            continue
        cost = known[process, stage]
        drawing.text(28, y, words)
        drawing.rectangle(258, y - 13, 10 * cost, 16, "dark" if "event loop" not in words else "mid", 2)
        drawing.text(258 + 10 * cost + 8, y, f"{cost:g}")
        y += 32
    drawing.rectangle(16, y - 8, 16, 16, "dark", 2)
    drawing.text(40, y + 6, "work on this call")
    drawing.rectangle(214, y - 8, 16, 16, "mid", 2)
    drawing.text(238, y + 6, "reads, waking the process")
    assert y + 24 <= 558, y
    return drawing.svg()


KEYS = [f"user-{number}" for number in range(150)]
FARTHEST = 3.0


def tilt() -> str:
    """Two backends: the numbers that each key draws, and the line between them for two splits."""
    even = Rendezvous("shop", {"old": 0.5, "new": 0.5})
    before, after = (Rendezvous("shop", {"old": 1 - new, "new": new}).owner for new in (0.1, 0.4))
    drawing = Drawing(
        "Each key draws a number for each backend, and the weights tilt the line between them",
        "Dots are keys, at the numbers that they draw for the old and the new backend. Keys below a line through the"
        " origin belong to the new backend. More weight for the new one tilts the line upwards, so that keys between"
        " the two lines move, all from old to new.",
        600,
    )
    left, top, side = 24, 52, 396

    def at(old: float, new: float) -> tuple[float, float]:
        return left + side * old / FARTHEST, top + side * (1 - new / FARTHEST)

    drawing.text(left, 32, "number drawn for new", "soft")
    drawing.line([at(0, FARTHEST), at(0, 0), at(FARTHEST, 0)])
    counts = {"stay": 0, "move": 0, "new": 0}
    for key in KEYS:
        numbers = {tag: number / 2 for tag, number in even.numbers(key).items()}
        if max(numbers.values()) > FARTHEST - 0.05:
            continue
        kind = "new" if before(key) == "new" else "move" if after(key) == "new" else "stay"
        counts[kind] += 1
        x, y = at(numbers["old"], numbers["new"])
        drawing.dot(x, y, {"new": "dark", "move": "mid edge", "stay": "pale"}[kind], 5.5)
    for share in (0.1, 0.4):
        drawing.line([at(0, 0), at(FARTHEST, FARTHEST * share / (1 - share))], "thin")
        x, y = at(FARTHEST, FARTHEST * share / (1 - share))
        drawing.text(x + 6, y + 6, f"{100 * share:.0f} %", "bold")
    drawing.text(left + side, top + side + 24, "number drawn for old", "soft", "end")
    for number, (style, kind, words) in enumerate(
        (
            ("dark", "new", "new at 10 %, and at 40 %"),
            ("mid edge", "move", "move from old to new at 40 %"),
            ("pale", "stay", "old at both"),
        )
    ):
        y = top + side + 58 + 25 * number
        drawing.dot(left + 8, y - 6, style, 6)
        drawing.text(left + 24, y, f"{counts[kind]} keys: {words}")
    return drawing.svg()


BEFORE = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
AFTER = {"a": 0.25, "b": 0.25, "c": 0.5}


def moves() -> str:
    """Three backends, of which the third gets more."""
    first, second = (Rendezvous("shop", weights).owner for weights in (BEFORE, AFTER))
    keys = KEYS[:96]
    moved = [key for key in keys if first(key) != second(key)]
    drawing = Drawing(
        "Only keys that the grown backend wins move",
        f"Of {len(keys)} keys, {len(moved)} move when backend c grows from a third to a half, and all of them go to c."
        " No key moves between a and b.",
        600,
    )
    places: list[dict[str, tuple[float, float]]] = []
    for top, owner, weights, title in ((16, first, BEFORE, 16), (280, second, AFTER, 250)):
        where: dict[str, tuple[float, float]] = {}
        for column, tag in enumerate(weights):
            left = 16 + 152 * column
            mine = [key for key in keys if owner(key) == tag]
            mine.sort(key=lambda key: (key in moved) == (weights is BEFORE))  # so that lines are short
            share = f"{100 * weights[tag]:.0f} %"
            drawing.text(left + 72, top + title, f"{tag}: {share}, {len(mine)}", "bold", "middle")
            drawing.rectangle(left, top + 28, 144, 200, "frame")
            where |= {
                key: (left + 16 + 22.4 * (place % 6), top + 46 + 20.5 * (place // 6)) for place, key in enumerate(mine)
            }
        places.append(where)
    for key in moved:
        drawing.line([places[0][key], places[1][key]], "thin")
    for where in places:
        for key, (x, y) in where.items():
            drawing.dot(x, y, "dark" if key in moved else "pale", 6.5)
    drawing.dot(26, 558, "dark", 6.5)
    drawing.text(42, 564, f"{len(moved)} of {len(keys)} keys move, all of them to c")
    drawing.dot(26, 582, "pale", 6.5)
    drawing.text(42, 588, "the others stay where they are")
    return drawing.svg()


def drawings() -> dict[str, str]:
    """All of them, by their files."""
    return {
        "processes.svg": processes(),
        "deaths.svg": deaths(),
        "request.svg": request(),
        "tilt.svg": tilt(),
        "moves.svg": moves(),
        "sound.svg": judging.sound(),
        "worse.svg": judging.worse(),
    }


def main() -> None:
    for name, svg in drawings().items():
        (FOLDER / name).write_text(svg)


if __name__ == "__main__":
    main()
