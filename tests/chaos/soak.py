"""The soak: each second some process of the instance is killed, while its settings change and clients hang up.

Made to find what no single fault does: what adds up, and what two faults do at once.

    python -m tests.chaos --soak 600
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from pointsman.exceptions import BackendStartError
from tests.chaos.arena import QUICK, Arena
from tests.chaos.checks import cut_by, nothing_but, nothing_lost
from tests.chaos.load import History, Load
from tests.chaos.models import Worker
from tests.chaos.rows import Row

KILL_PERIOD_S = 1.0
KILLED = ("replica", "ingress", "controller")
RATE = 100.0
LEAVE_SHARE = 0.05
REPLICAS = 3
MAX_RSS_SLOPE = 1.0
"""MiB in a minute."""
DELIVERED = 0.999
"""Of what may be repeated."""


def soak_row(seconds: float) -> Row:
    """The row of the table that soaks for so long."""
    title = f"a process is killed each second for {seconds:g} s, under changes, and clients that leave"
    return Row("F40", title, partial(_soak, seconds=seconds))


def _soak(arena: Arena, seconds: float) -> None:
    arena.deploy(replicas=REPLICAS, max_concurrent_queries=32)
    arena.client.create_backend("v", Worker, str(arena.folder), config={**QUICK, "num_replicas": 2})
    before = _counts(arena)
    samples = [before]
    end = time.monotonic() + seconds
    killer = Killer(arena, end)
    changer = Changer(arena, end)
    with arena.load(rate=RATE, leave_share=LEAVE_SHARE) as load:
        busy = [arena.in_background(partial(killer.run, load)), arena.in_background(changer.run)]
        while time.monotonic() < end:
            time.sleep(1.0)
            samples.append(_counts(arena))
            history = load.history
            arena.tell(f"soak: {end - time.monotonic():.0f} s left, {len(history.exchanges):,} requests, {killer.told}")
        for background in busy:
            background.join(120)
        since = time.monotonic()
        arena.recovered(since, 30.0)
        load.goes_on(50)
    arena.notes += [killer.told, changer.told]
    _check_requests(arena, load.history, killer)
    changer.check()
    arena.client.set_traffic("w", {"w": 1.0})
    arena.client.update_backend_config("w", {"num_replicas": REPLICAS})
    arena.at_rest({"w": REPLICAS, "v": 2})
    _check_counts(arena, before, samples)


def _check_requests(arena: Arena, history: History, killer: Killer) -> None:
    answers = sorted(e.ended for e in history.exchanges if e.outcome == "delivered")
    silence = max((b - a for a, b in itertools.pairwise(answers)), default=0.0)
    # Nobody answers while the HTTP server is started again and again, so no bar would mean anything.
    arena.notes.append(f"longest silence: {silence:.1f} s")
    cut = cut_by(history, killer.cuts)
    arena.excused = sum(e.outcome == "reset" for e in cut)
    arena.check(nothing_lost(history, except_for=arena.excused))
    arena.check(nothing_but(history, "delivered", "failed", "left", "reset", "aborted"))
    spared = {e.id for e in cut}
    repeatable = [e for e in history.exchanges if e.idempotent and e.outcome != "left" and e.id not in spared]
    delivered = sum(e.outcome == "delivered" for e in repeatable)
    arena.expect(
        delivered >= DELIVERED * len(repeatable),
        f"{delivered} of {len(repeatable)} requests that may be repeated were delivered",
    )


class Killer:
    """Kills a process each second, and remembers when HTTP servers went."""

    def __init__(self, arena: Arena, end: float) -> None:
        self._arena = arena
        self._end = end
        self._chance = random.Random(arena.chance.randrange(2**32))
        self.cuts: list[float] = []
        self.killed: Counter[str] = Counter()

    def run(self, load: Load) -> None:
        due = time.monotonic()
        while (due := due + KILL_PERIOD_S) < self._end:
            time.sleep(max(0.0, due - time.monotonic()))
            role = self._chance.choice(KILLED)
            there = self._arena.processes(role)
            if not there:
                continue  # killed just now, and not yet there again
            if role == "ingress":
                self.cuts.append(load.now())
            with contextlib.suppress(ProcessLookupError):
                self._arena.kill(self._chance.choice(there).pid)
                self.killed[role] += 1

    @property
    def told(self) -> str:
        return "killed " + ", ".join(f"{count} of {role}" for role, count in sorted(self.killed.items()))


class Changer:
    """Changes settings, one after the other, and remembers what was acknowledged."""

    def __init__(self, arena: Arena, end: float) -> None:
        self._arena = arena
        self._end = end
        self._chance = random.Random(arena.chance.randrange(2**32))
        self._version = 1
        self._config: dict[str, Any] = {}
        self._share = 1.0
        self._changes = Counter[str]()

    def run(self) -> None:
        kinds: dict[str, Callable[[], None]] = {
            "scale": lambda: self._set("num_replicas", self._chance.randrange(2, 5)),
            "limit": lambda: self._set("max_concurrent_queries", self._chance.randrange(16, 64)),
            "queue": lambda: self._set("max_queued_queries", self._chance.randrange(500, 2000)),
            "traffic": self._traffic,
            "come and go": self._come_and_go,
            "deploy": self._deploy,
        }
        while time.monotonic() < self._end:
            kind = self._chance.choice(list(kinds))
            try:
                kinds[kind]()
            except BackendStartError:
                kind = f"{kind}, taken back"  # what it started was killed: a bad version, for all that anybody knows
            self._changes[kind] += 1
            time.sleep(self._chance.random() * 0.5)

    def check(self) -> None:
        """What was acknowledged last is in force."""
        arena, client = self._arena, self._arena.client
        config = client.get_backend_config("w")
        for field, value in self._config.items():
            found = getattr(config, field)
            arena.expect(found == value, f"{field} is {found}, and {value} was acknowledged")
        policy = client.list_endpoints()["w"]["traffic"]
        arena.expect(
            policy.get("w", 0.0) == self._share, f"the traffic is {policy}, and {self._share} was acknowledged"
        )
        arena.expect("x" not in client.list_endpoints(), "a deleted endpoint is there")
        arena.expect(len(self._changes) >= 3, f"little was changed: {dict(self._changes)}")

    @property
    def told(self) -> str:
        return "changed " + ", ".join(f"{kind}: {count}" for kind, count in sorted(self._changes.items()))

    def _set(self, field: str, value: int) -> None:
        self._arena.client.update_backend_config("w", {field: value})
        self._config[field] = value

    def _traffic(self) -> None:
        share = round(self._chance.uniform(0.5, 1.0), 2)
        self._arena.client.set_traffic("w", {"w": share, "v": 1 - share})
        self._share = share

    def _come_and_go(self) -> None:
        self._arena.client.create_endpoint("x", backend="v", route="/x")
        self._arena.client.delete_endpoint("x")

    def _deploy(self) -> None:
        self._version += 1
        self._arena.client.deploy("w", Worker, str(self._arena.folder), self._version)


class Counts(NamedTuple):
    """What a process that nobody kills holds, and what lies in the instance's folder."""

    time: float
    rss: int
    files: int
    sockets: int


def _counts(arena: Arena) -> Counts:
    supervisor = arena.processes("supervisor")[0]
    return Counts(time.monotonic(), supervisor.memory_info().rss, supervisor.num_fds(), len(arena.sockets()))


def _check_counts(arena: Arena, before: Counts, samples: list[Counts]) -> None:
    now = _counts(arena)
    arena.expect(now.files == before.files, f"the supervisor has {now.files} files open, and had {before.files}")
    arena.expect(now.sockets == before.sockets, f"there are {now.sockets} sockets of replicas, {before.sockets} before")
    warm = samples[len(samples) // 4 :]
    slope = _slope([(s.time, s.rss / 2**20) for s in warm]) * 60
    arena.expect(slope < MAX_RSS_SLOPE, f"the supervisor grows by {slope:.1f} MiB in a minute")


def _slope(points: list[tuple[float, float]]) -> float:
    """Of the line of least squares."""
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread if spread else 0.0
