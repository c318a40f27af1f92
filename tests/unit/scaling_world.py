"""A backend for tests of the rule for numbers of replicas: calls flow evenly, or come from callers without pause."""

from __future__ import annotations

import msgspec

from pointsman.model.scaling import Autoscaling, Demand
from pointsman.policy.scaling.decide import LOOK_S, Memory, decide
from pointsman.policy.scaling.seen import Seen, Verdict


class Backend:
    """Replicas of one backend, the calls for it, and the rule, which looks each half second.

    Args:
        fields: of the autoscaling configuration.
        wanted: replicas that are there at first.
        service_s: seconds that a call runs.
        slots: calls that a replica runs at once.
        start_s: seconds until a replica is ready.
        bounds: of the number of replicas.
        known: whether the rule knows ``start_s``.
        seen: more fields of what the rule sees.
    """

    def __init__(
        self,
        *,
        wanted: int = 1,
        service_s: float = 0.1,
        slots: int = 1,
        start_s: float = 10.0,
        bounds: tuple[int, int] = (1, 100),
        **fields: object,
    ) -> None:
        self.config = Autoscaling(**fields)  # type: ignore[arg-type]  # as each test gives them
        self.wanted = self.ready = wanted
        self.service_s, self.slots, self.start_s, self.bounds = service_s, slots, start_s, bounds
        self.now = 1000.0
        self.more: dict[str, object] = {}
        self.memory: Memory | None = None
        self.verdict: Verdict | None = None
        self.changes: list[tuple[float, int, int, str, str]] = []
        self._starting: list[float] = []
        self._call_s = self._waiting_s = self._arrivals = self._ended = 0.0
        self.waiting = 0.0
        self._running = 0.0

    def restart_controller(self) -> None:
        """What the rule has kept is gone; what is wanted is stored."""
        self.memory = None

    def flow(self, seconds: float, rate: float) -> Backend:
        """Let calls come evenly, so many by second."""
        for _ in range(round(seconds / LOOK_S)):
            self.step(rate * LOOK_S)
        return self

    def callers(self, seconds: float, count: int) -> Backend:
        """Let so many callers each send their next call when they have an answer."""
        arrived = count - self.waiting - self._running
        for _ in range(round(seconds / LOOK_S)):
            self.step(arrived, callers=count)
            arrived = 0.0
        return self

    def step(self, arrived: float, callers: int = 0) -> None:
        """Half a second, and a look at its end."""
        self.now += LOOK_S
        self.ready += sum(when <= self.now for when in self._starting)
        self._starting = [when for when in self._starting if when > self.now]
        places = self.ready * self.slots
        if callers:
            self._running = min(callers, places)
            self.waiting = callers - self._running
            served = self._running * LOOK_S / self.service_s
            arrived += served
        else:
            served = min(self.waiting + arrived, places * LOOK_S / self.service_s)
            self.waiting += arrived - served
            self._running = served * self.service_s / LOOK_S
        self._arrivals += arrived
        self._ended += served
        self._waiting_s += self.waiting * LOOK_S
        self._call_s += (self.waiting + self._running) * LOOK_S
        self.look()

    def look(self, **once: object) -> Verdict:
        """One look; ``once`` are fields of what is seen by it alone."""
        verdict = decide(self.seen(**once), self.config, self.now, self.memory)
        self.memory, self.verdict = verdict.memory, verdict
        assert self.bounds[0] <= verdict.wanted <= self.bounds[1]
        if verdict.wanted != self.wanted:
            self.changes.append((self.now, self.wanted, verdict.wanted, verdict.reason, verdict.text))
            self._resize(verdict.wanted)
        return verdict

    def seen(self, **once: object) -> Seen:
        """What the rule is told."""
        ended = round(self._ended)
        demand = Demand(
            call_s=self._call_s,
            waiting_s=self._waiting_s,
            arrivals=round(self._arrivals),
            ended=ended,
            ran_s=ended * self.service_s,
            ran_s2=ended * self.service_s**2 * 1.25,
            waiting=round(self.waiting),
            running=round(self._running),
        )
        seen = Seen(
            demand, self.wanted, self.ready, len(self._starting), self.slots, *self.bounds, start_s=self.start_s
        )
        return msgspec.structs.replace(seen, **self.more, **once)

    @property
    def reasons(self) -> list[str]:
        """Why the number changed, each time."""
        return [reason for _, _, _, reason, _ in self.changes]

    @property
    def peak(self) -> int:
        """The highest number that was wanted."""
        return max([self.wanted, *(after for _, _, after, _, _ in self.changes)])

    @property
    def flaps(self) -> int:
        """Changes of direction within 120 s."""
        pairs = zip(self.changes, self.changes[1:], strict=False)
        return sum(
            (second[2] - second[1]) * (first[2] - first[1]) < 0 and second[0] - first[0] <= 120
            for first, second in pairs
        )

    def _resize(self, wanted: int) -> None:
        missing = wanted - self.ready - len(self._starting)
        if missing > 0:
            self._starting += [self.now + self.start_s] * missing
        while missing < 0 and self._starting:
            self._starting.pop()
            missing += 1
        self.ready += min(0, missing)
        self.wanted = wanted
