"""What must hold, as plain functions: a history and the truth in, violations in words out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.load import LOST, Exchange, History


@dataclass
class Truth:
    """What user code has written down: how often each request began and ended, and what constructors have run."""

    begun: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    constructed: list[tuple[int, int]] = field(default_factory=list)
    """Pid and version."""


def read_truth(folder: Path) -> Truth:
    """All processes' files."""
    truth = Truth()
    for path in sorted(folder.glob("*.truth")):
        for line in path.read_text().splitlines():
            request_id, version, phase = line.split()
            if phase == "constructed":
                truth.constructed.append((int(path.stem), int(version)))
            elif phase == "begin":
                truth.begun[request_id] += 1
            else:
                truth.ended[request_id] += 1
    return truth


def nothing_lost(history: History, *, except_for: int = 0) -> Iterator[str]:
    """Every request has an outcome that its client can understand.

    Args:
        except_for: resets that the row declares: those in flight on an ingress that was killed.
    """
    if history.lost > except_for:
        counts = Counter(e.outcome for e in history.exchanges if e.outcome in LOST)
        yield f"{history.lost} requests are lost ({dict(counts)}), and {except_for} may be"
    if wrong := [e for e in history.exchanges if e.outcome == "wrong"]:
        yield f"{len(wrong)} answers are wrong, such as status {wrong[0].status}"


DYING_S = 0.5
"""For how long a killed process may still take connections on a busy machine."""


def cut_by(history: History, kills: Iterable[float]) -> list[Exchange]:
    """What broke on a connection to an HTTP server that was killed at one of these times; nobody can answer those. What
    was connected later has no such excuse."""
    times = list(kills)
    return [
        exchange
        for exchange in history.exchanges
        if exchange.outcome in ("reset", "aborted")
        and any(exchange.connected - DYING_S <= at <= exchange.ended for at in times)
    ]


def nothing_but(history: History, *outcomes: str) -> Iterator[str]:
    """Only these outcomes."""
    others = Counter(f"{e.outcome} {e.status}" for e in history.exchanges if e.outcome not in outcomes)
    if others:
        yield f"there are other outcomes than {', '.join(outcomes)}: {dict(others)}"


def nothing_ran_twice(history: History, truth: Truth) -> Iterator[str]:
    """What must not be repeated was not (G2)."""
    twice = [e.id for e in history.exchanges if not e.idempotent and truth.begun[e.id] > 1]
    if twice:
        yield f"{len(twice)} requests that must not be repeated ran more than once, such as {twice[0]}"


def outcomes_are_true(history: History, truth: Truth) -> Iterator[str]:
    """What was delivered has run to its end, and what was refused has not begun."""
    unrun = [e.id for e in history.exchanges if e.outcome == "delivered" and not truth.ended[e.id]]
    if unrun:
        yield f"{len(unrun)} requests were delivered and did not run, such as {unrun[0]}"
    run = [e.id for e in history.exchanges if e.outcome == "refused" and truth.begun[e.id]]
    if run:
        yield f"{len(run)} requests were refused and did run, such as {run[0]}"


def failures_are_few(history: History, most: int) -> Iterator[str]:
    """Requests that fail are those that had started where the fault was, and may not be repeated (G3)."""
    failed = [e for e in history.exchanges if e.outcome == "failed"]
    repeatable = [e for e in failed if e.idempotent]
    if repeatable:
        yield f"{len(repeatable)} requests failed that may be repeated, such as {repeatable[0].id}"
    if len(failed) > most:
        yield f"{len(failed)} requests failed, and {most} may"


def new_version_only(history: History, after: float, version: int) -> Iterator[str]:
    """Whoever asks after a deploy has returned gets the new version."""
    old = [e for e in history.exchanges if e.due > after and e.outcome == "delivered" and e.version < version]
    if old:
        yield f"{len(old)} requests sent after version {version} was acknowledged were answered by {old[0].version}"


def versions_within(history: History, versions: Iterable[int]) -> Iterator[str]:
    """Nobody else answers."""
    known = set(versions)
    others = {e.version for e in history.exchanges if e.outcome == "delivered"} - known
    if others:
        yield f"versions {sorted(others)} answered, and only {sorted(known)} may"


def split_as_wanted(exchanges: Iterable[Exchange], weights: dict[str, float]) -> Iterator[str]:
    """Each backend's share is within three standard deviations of its weight."""
    counts = Counter(e.backend for e in exchanges if e.backend)
    total = sum(counts.values())
    for backend, weight in weights.items():
        deviation = (total * weight * (1 - weight)) ** 0.5
        if abs(counts[backend] - total * weight) > 3 * deviation + 1:
            yield f"backend {backend!r} got {counts[backend]} of {total} requests, and its weight is {weight}"
