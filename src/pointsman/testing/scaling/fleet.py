"""The simulated backend: a queue as a router has it, replicas that start, run calls and leave, and what is counted."""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush

from pointsman.arguments import DEFAULT_REQUEST_TIMEOUT_S
from pointsman.model.scaling import Demand
from pointsman.testing.scaling.traces import Calls

DEADLINE_S = DEFAULT_REQUEST_TIMEOUT_S
"""A call that has waited so long is lost."""
INFINITE = math.inf


class Member:
    """A replica of the simulation."""

    __slots__ = ("launched", "leaving", "running")

    def __init__(self, launched: float) -> None:
        self.launched = launched
        self.running = 0
        self.leaving = False


class Fleet:
    """Replicas and calls of one backend, in simulated time.

    Args:
        calls: what comes.
        slots: calls that a replica runs at once.
        start_s: seconds from a replica's launch until it takes calls.
        first: replicas that are ready at second 0.
    """

    def __init__(self, calls: Calls, slots: int, start_s: float, first: int) -> None:
        self._calls = calls
        self._slots = slots
        self._start_s = start_s
        self._come = 0
        self._begun = 0
        self._left = 0
        self._ended = 0
        self._come_sum = 0.0
        self._begun_sum = 0.0
        self._left_sum = 0.0
        self._ran_s = 0.0
        self._ran_s2 = 0.0
        self._queue: deque[int] = deque()
        self._ends: list[tuple[float, int, Member]] = []
        self._ready = [Member(0.0) for _ in range(first)]
        self._free = deque(self._ready)
        self._starting: deque[tuple[float, Member]] = deque()
        self._leaving: set[Member] = set()
        self._used_s = 0.0
        self.latencies: list[float] = [-1.0] * len(calls.times)
        """Seconds from each call's arrival to the end of its answer; negative where it was lost."""
        self.fresh: list[float] = []
        """Latencies of the calls that were answered since somebody emptied this."""

    @property
    def ready(self) -> int:
        """Replicas that take calls."""
        return len(self._ready)

    @property
    def starting(self) -> int:
        """Replicas that are launched and not ready yet."""
        return len(self._starting)

    @property
    def next_ready(self) -> float:
        """When the next of the starting replicas is ready; infinite without one."""
        return self._starting[0][0] if self._starting else INFINITE

    @property
    def done(self) -> bool:
        """Whether every call has come and left."""
        return self._left == len(self._calls.times)

    def advance(self, until: float) -> float:
        """Let calls come, run and end until a second. Return the second reached, which is earlier where a call has
        found neither a ready nor a starting replica."""
        times, services, ends, free, queue = (
            self._calls.times,
            self._calls.service_s,
            self._ends,
            self._free,
            self._queue,
        )
        count, come = len(times), self._come
        while True:
            arrival = times[come] if come < count else INFINITE
            if ends and ends[0][0] < arrival:
                now = ends[0][0]
                if now > until:
                    break
                _, call, member = heappop(ends)
                self._end(call, member, now, services[call])
                continue
            if arrival > until:
                break
            come += 1
            self._come_sum += arrival
            if free:
                self._begin(come - 1, free.popleft(), arrival)
                continue
            queue.append(come - 1)
            if not self._ready and not self._starting:
                until = arrival
                break
        self._come = come
        return until

    def _begin(self, call: int, member: Member, now: float) -> None:
        """A call goes to a replica that has a free slot and is not in the list of such ones."""
        self._begun += 1
        self._begun_sum += now
        member.running += 1
        if member.running < self._slots:
            self._free.append(member)
        heappush(self._ends, (now + self._calls.service_s[call], call, member))

    def _end(self, call: int, member: Member, now: float, service_s: float) -> None:
        self._left += 1
        self._left_sum += now
        self._ended += 1
        self._ran_s += service_s
        self._ran_s2 += service_s * service_s
        latency = now - self._calls.times[call]
        self.latencies[call] = latency
        self.fresh.append(latency)
        was_full = member.running == self._slots
        member.running -= 1
        if member.leaving:
            if not member.running:
                self._leaving.discard(member)
                self._used_s += now - member.launched
        elif was_full:
            self._give(member, now)

    def _give(self, member: Member, now: float) -> None:
        """A replica that had no free slot has one: it takes the next call, or waits for one."""
        queue, times = self._queue, self._calls.times
        while queue:
            call = queue.popleft()
            if now - times[call] < DEADLINE_S:
                self._begin(call, member, now)
                return
            self._lose(call)
        self._free.append(member)

    def _lose(self, call: int) -> None:
        """A call has waited for as long as it may."""
        when = self._calls.times[call] + DEADLINE_S
        self._begun += 1
        self._begun_sum += when
        self._left += 1
        self._left_sum += when

    def expire(self, now: float) -> None:
        """Calls that have waited for too long are lost."""
        while self._queue and now - self._calls.times[self._queue[0]] >= DEADLINE_S:
            self._lose(self._queue.popleft())

    def become_ready(self, now: float) -> None:
        """Those whose start is over take calls."""
        while self._starting and self._starting[0][0] <= now:
            member = self._starting.popleft()[1]
            self._ready.append(member)
            while self._queue and member.running < self._slots - 1:
                self._lend(member, now)
            self._give(member, now)

    def _lend(self, member: Member, now: float) -> None:
        call = self._queue.popleft()
        if now - self._calls.times[call] >= DEADLINE_S:
            self._lose(call)
            return
        self._begun += 1
        self._begun_sum += now
        member.running += 1
        heappush(self._ends, (now + self._calls.service_s[call], call, member))

    def resize(self, wanted: int, now: float) -> None:
        """Launch or take down replicas. Those that start go first, the newest of them, then the least busy; they end
        the calls that they run."""
        for _ in range(wanted - len(self._ready) - len(self._starting)):
            self._starting.append((now + self._start_s, Member(now)))
        surplus = len(self._ready) + len(self._starting) - wanted
        while surplus > 0 and self._starting:
            self._used_s += now - self._starting.pop()[1].launched
            surplus -= 1
        for _ in range(surplus):
            member = min(self._ready, key=lambda one: one.running)
            self._ready.remove(member)
            if member.running < self._slots:
                self._free.remove(member)
            member.leaving = True
            if member.running:
                self._leaving.add(member)
            else:
                self._used_s += now - member.launched

    def demand(self, now: float) -> Demand:
        """What a router would have counted up to now."""
        return Demand(
            call_s=(self._come - self._left) * now - self._come_sum + self._left_sum,
            waiting_s=(self._come - self._begun) * now - self._come_sum + self._begun_sum,
            arrivals=self._come,
            ended=self._ended,
            ran_s=self._ran_s,
            ran_s2=self._ran_s2,
            waiting=self._come - self._begun,
            running=self._begun - self._left,
        )

    def used_s(self, now: float) -> float:
        """Seconds that replicas have been there, from each one's launch to its end."""
        there = [*self._ready, *self._leaving, *(member for _, member in self._starting)]
        return self._used_s + sum(now - member.launched for member in there)
