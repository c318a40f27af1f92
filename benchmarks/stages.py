"""What a no-op request costs, by stage: the processor time of each process, and where in the code it goes.

    python benchmarks/stages.py [--base CHECKOUT] [--seconds 8] [--connections 1,32] [--settings noop,async_noop]

``CHECKOUT`` is another version's, measured beside this one. The processor time of a process is the system's. It is
divided by the samples of ``py-spy``, which has to be on the path: one belongs to the stage of its innermost frame that
is code of a stage, so that what C code does for a line counts for that line. Needs ``wrk``.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from load import wrk
from peers import Side, cpu_s, family_of, running

#: Which modules belong to a stage; the first that fits counts. Some are of earlier versions only.
STAGES = {
    "HTTP: read the head, own the connection": (
        r"pointsman/ingress/(protocol|reading|framing|states|cycle|service|door|unframed|receipt|server)"
        r"|/httptools/|/uvicorn/"
    ),
    "HTTP: match, check, count, write the answer": r"pointsman/ingress/(?!__main__)|pointsman/telemetry/",
    "choose backend and replica": r"pointsman/(policy/|lanes|routing/(router|chooser|pool|call|shadow|pace|deadlines))",
    "wire: messages, frames, the connection": r"pointsman/(wire/(?!started)|routing/)",
    "admit, mark as started, keep the ledger": (
        r"pointsman/(wire/started|replica/(runtime|ledger|started|item|batch|metrics|watched))"
    ),
    "run user code, encode its answer": r"pointsman/(replica/(?!__main__)|request|context|incoming)|pointsman_server",
}
ELSEWHERE = "event loop, reads, waking"
RATE = 200


def processes_of(pid: int) -> dict[str, list[int]]:
    """The processes of an instance that a request goes through."""
    found: dict[str, list[int]] = {"ingress": [], "replica": []}
    for member in family_of(pid):
        words = " ".join(member.cmdline())
        for name, pids in found.items():
            if f"pointsman.{name}" in words:
                pids.append(member.pid)
    return found


def stage_of(stack: str) -> str:
    """The stage of a sample. Its frames are separated by semicolons, the innermost one last."""
    for frame in reversed(stack.split(";")):
        for stage, pattern in STAGES.items():
            if re.search(pattern, frame):
                return stage
    return ELSEWHERE


def sampled(pid: int, seconds: float, folder: Path) -> subprocess.Popen[bytes]:
    spy = shutil.which("py-spy") or str(Path(sys.executable).with_name("py-spy"))
    how = ["--rate", str(RATE), "--duration", str(int(seconds)), "--format", "raw", "--full-filenames", "--nonblocking"]
    return subprocess.Popen(
        [spy, "record", *how, "--pid", str(pid), "--output", str(folder / str(pid))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def shares_in(file: Path) -> Counter[str]:
    shares: Counter[str] = Counter()
    for line in file.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        shares[stage_of(stack)] += int(count)
    return shares


def measure(setting: str, connections: int, seconds: float) -> dict[tuple[str, str], float]:
    """Microseconds of a request, by process and stage; and by process, under ''."""
    found: dict[tuple[str, str], float] = {}
    side = Side(setting, setting, "pointsman", f"pointsman_server.py {setting}")
    with running(side) as server, tempfile.TemporaryDirectory() as folder:
        wrk(server.port, side.path, connections=connections, seconds=1)
        pids = processes_of(server.pid)
        before = {name: cpu_s(list(members)) for name, members in pids.items()}
        load = wrk(server.port, side.path, connections=connections, seconds=seconds)
        for name, members in pids.items():
            found[name, ""] = 1e6 * (cpu_s(list(members)) - before[name]) / load.requests
        found["", "p50"] = load.p50_ms * 1000
        spies = [sampled(pid, seconds, Path(folder)) for members in pids.values() for pid in members]
        wrk(server.port, side.path, connections=connections, seconds=seconds + 2)
        for spy in spies:
            spy.wait()
        for name, members in pids.items():
            shares = sum((shares_in(Path(folder, str(pid))) for pid in members), Counter())
            for stage, count in shares.items():
                found[name, stage] = found[name, ""] * count / shares.total()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--connections", default="1,32")
    parser.add_argument("--settings", default="noop,async_noop")
    given = parser.parse_args()
    trees = {"now": None} if given.base is None else {"before": given.base, "now": None}
    for setting in given.settings.split(","):
        for connections in map(int, given.connections.split(",")):
            columns = {}
            for name, tree in trees.items():
                os.environ.pop("PYTHONPATH", None)
                if tree is not None:
                    os.environ["PYTHONPATH"] = str(tree.resolve() / "src")
                columns[name] = measure(setting, connections, given.seconds)
            rows = dict.fromkeys(row for column in columns.values() for row in sorted(column))
            print(f"\n{setting}, connections: {connections}. Microseconds for a request.\n")
            print(f"| process | stage | {' | '.join(columns)} |\n| --- | --- |{' --- |' * len(columns)}")
            for process, stage in rows:
                figures = " | ".join(f"{column.get((process, stage), 0.0):.1f}" for column in columns.values())
                print(f"| {process} | {stage or 'all'} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
