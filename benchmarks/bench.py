"""Measure Pointsman beside other servers: every scenario, or some. Run by ``make bench``; README.md has the method."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import results
from load import wrk_version
from peers import PEERS, TREES, Watch, ensure
from scenarios import SCENARIOS, Round, Scenario, measure

RESULTS = Path(__file__).parent / "results"
TRIAL_S = 1.0


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare Pointsman with other servers, and with itself.")
    parser.add_argument("--only", default="", help="scenarios, with commas between them (default: all)")
    parser.add_argument("--peers", default="", help=f"of {', '.join(PEERS)} (default: all)")
    parser.add_argument("--rounds", type=int, help="times that each cell is measured (default: see --list)")
    parser.add_argument("--seconds", type=float, help="for each load of each side (default: see --list)")
    parser.add_argument("--patience", type=float, default=60.0, help="most seconds to wait for a quiet machine (60)")
    parser.add_argument("--quick", action="store_true", help="one round of 1 s, to see that it works")
    parser.add_argument("--list", action="store_true", help="say what there is, and measure nothing")
    parser.add_argument("--show", action="store_true", help="print what was measured last, and measure nothing")
    given = parser.parse_args(arguments)
    given.only = _chosen(parser, "--only", given.only, list(SCENARIOS))
    given.peers = _chosen(parser, "--peers", given.peers, PEERS)
    if (given.rounds is not None and given.rounds < 1) or (given.seconds is not None and given.seconds < 0):
        parser.error(f"--rounds {given.rounds} must be at least 1, and --seconds {given.seconds} at least 0")
    return given


def _chosen(parser: argparse.ArgumentParser, option: str, text: str, names: Sequence[str]) -> list[str]:
    wanted = [name for name in text.split(",") if name]
    for name in wanted:
        if name not in names:
            parser.error(f"{option} has {name!r}; there is {', '.join(names)}")
    return wanted or list(names)


def main() -> int:
    options = parse_options()
    if options.list:
        for name in options.only:
            one = SCENARIOS[name]
            print(
                f"{name:<13}{one.title}, {one.rounds} x {one.seconds:g} s: {', '.join(side.key for side in one.sides)}"
            )
    elif options.show:
        for name in options.only:
            if (RESULTS / f"{name}.jsonl").exists():
                print(table(name, results.read(RESULTS / f"{name}.jsonl")))
    elif not wrk_version():
        print("wrk is not installed: apt-get install wrk (macOS: brew install wrk)", file=sys.stderr)
        return 2
    else:
        return max([run(name, SCENARIOS[name], options) for name in options.only])
    return 0


def run(name: str, scenario: Scenario, options: argparse.Namespace) -> int:
    """Measure a scenario, print its table and write its files. Returns 1 when a request failed, or a side did."""
    rounds = options.rounds or (1 if options.quick else scenario.rounds)
    seconds = scenario.seconds if options.seconds is None else options.seconds
    seconds = min(TRIAL_S, seconds) if options.quick else seconds
    left_out = install({side.peer for side in scenario.sides} & set(options.peers))
    sides = [side for side in scenario.sides if side.peer in options.peers and side.peer not in left_out]
    if not sides:
        return 0
    print(f"{name}: {rounds} rounds of {seconds:g} s", file=sys.stderr)
    found, watch = (
        results.Results(results.head(name, rounds, seconds, left_out)),
        Watch(0.0 if options.quick else options.patience),
    )
    try:
        for number in range(1, rounds + 1):
            found.rounds.append(measure(scenario, sides, Round(number, seconds, watch)))
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"{name} was given up: {error}", file=sys.stderr)
        return 1
    print(table(name, found))
    # What a trial or a part of the sides found goes into a folder of its own. Other builds of Pointsman may be missing.
    needed = {side.key for side in scenario.sides if side.peer not in TREES}
    is_whole = not options.quick and all(needed <= cells.keys() for cells in found.rounds)
    write(name, found, RESULTS if is_whole else RESULTS / "trial")
    for fault in found.faults():
        print(f"REQUESTS FAILED, the figures are not valid: {fault}", file=sys.stderr)
    return 1 if found.faults() or any(len(cells) < len(sides) for cells in found.rounds) else 0


def install(peers: set[str]) -> dict[str, str]:
    """Make the peers' environments. Returns those that could not be made, and why."""
    left_out = {}
    for peer in sorted(peers):
        try:
            ensure(peer)
        except (subprocess.SubprocessError, OSError) as error:
            left_out[peer] = str(error)
            print(f"{peer} is left out: {error}", file=sys.stderr)
    return left_out


def table(name: str, found: results.Results) -> str:
    one = SCENARIOS[name]
    return results.table(found, one.title, one.sides, one.columns, one.findings)


def write(name: str, found: results.Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    results.write(found, folder / f"{name}.jsonl")
    (folder / f"{name}.md").write_text(table(name, found))
    (folder / f"{name}.svg").write_text(results.plot(found, SCENARIOS[name].title, SCENARIOS[name].findings))
    print(f"written: {folder / name}.jsonl, .md, .svg", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
