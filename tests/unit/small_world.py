"""A small world with time of its own, in which processes, routers and operators behave at random."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable

import pytest

from pointsman.controller import desired as wanted
from pointsman.controller.failures import Failures
from pointsman.controller.observed import Observed
from pointsman.controller.reconcile import (
    Action,
    Configure,
    Confirm,
    Drain,
    Kill,
    Launch,
    Leave,
    Revert,
    WakeAt,
    is_settled,
    plan,
)
from pointsman.controller.replicas import Phase, Replica, Replicas
from pointsman.controller.state import Desired, FreeCapacity
from pointsman.exceptions import InsufficientResourcesError
from pointsman.model import Allocation, BackendConfigSpec, Capacity, Reason, Resources
from pointsman.wire.commands import Change, CreateBackend, DeleteBackend, Deploy, UpdateBackendConfig
from tests.unit.reconciling import ORIGIN, TRAITS, only, replica


class World:
    """Processes, routers and operators that behave at random, in a time of its own; :func:`plan` holds the reins.

    It carries out actions as the controller's shell does. ``bad`` holds code whose constructor fails and user_configs
    that ``reconfigure`` refuses. With ``crash`` processes also die, hang, and take no notice.
    """

    def __init__(self, seed: int, *, capacity: Capacity, crash: bool = False) -> None:
        self.chance = random.Random(seed)
        self.crash = self.ever_crashed = crash
        self.now = 0.0
        self.desired = Desired()
        self.observed = Observed(capacity=capacity)
        self.table = 0
        self.bad: set[object] = {"bad", b"bad"}
        self.floor: dict[str, int] = {}
        """Fewest replicas of a backend that must serve whatever plan does."""
        self.slack = 0
        self._numbers = itertools.count(1)
        self._order = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._wake: float | None = None
        self.observed.confirmed = {1: 0, 2: 0}

    def later(self, shortest: float, longest: float, event: Callable[[], None]) -> None:
        time = self.now + self.chance.uniform(shortest, longest)
        heapq.heappush(self._events, (time, next(self._order), event))

    def unlucky(self, share: float) -> bool:
        return self.crash and self.chance.random() < share

    # What the controller does.

    def change(self, command: Change) -> None:
        held: dict[str, tuple[Allocation, ...]] = {}
        for r in self.observed.replicas.values():
            held[r.backend] = (*held.get(r.backend, ()), r.allocation)
        try:
            self.desired, _ = wanted.apply(self.desired, command, FreeCapacity(self.observed.capacity, held))
        except (ValueError, InsufficientResourcesError):
            return
        failures = self.observed.failures.get(getattr(command, "tag", None) or getattr(command, "name", ""))
        if failures is not None:
            failures.forget()
        self.settle_floors()
        self.step()

    def step(self) -> None:
        self.act()
        while self.publish():  # a table without a replica sets the time by which routers must know
            self.act()

    def act(self) -> None:
        for _ in range(100):
            actions = plan(self.desired, self.observed, self.now)
            wakes = only(actions, WakeAt)
            assert wakes == actions[len(actions) - len(wakes) :]
            self._wake = wakes[0].time if wakes else None
            assert self._wake is None or self._wake > self.now, "a wake-up in the past"
            if len(actions) == len(wakes):
                break
            for action in actions:
                self.do(action)
                self.check()
        else:
            pytest.fail("plan never comes to rest")

    def do(self, action: Action) -> None:
        if isinstance(action, WakeAt):
            return
        if isinstance(action, Confirm):
            self.desired = wanted.confirm(self.desired, action.backend)
            self.observed.failures.pop(action.backend, None)
        elif isinstance(action, Revert):
            failures = self.observed.failures[action.backend]
            failed = self.desired.backends[action.backend].config_version
            self.desired = wanted.revert(self.desired, action.backend)
            failures.roll_back(failed)
            self.settle_floors()
        elif isinstance(action, Launch):
            self.launch(action)
        else:
            r = self.observed.replicas[action.number]
            if isinstance(action, Configure):
                r.sent_version = self.desired.backends[r.backend].config_version
                self.later(0.01, 0.5, lambda: self.configured(r.number))
            elif isinstance(action, Leave):
                self.enter(r, Phase.LEAVING)
            elif isinstance(action, Drain):
                self.enter(r, Phase.DRAINING)
                self.later(0.0, 30.0 if self.chance.random() < 0.2 else 1.0, lambda: self.drained(r.number))
            else:
                r.killed = True
                self.later(0.0, 0.1, lambda: self.exited(r.number))

    def launch(self, action: Launch) -> None:
        spec = action.spec
        mine = [r for r in self.observed.of(spec.tag) if r.is_current and not r.killed and r.version == spec.version]
        assert len(mine) < spec.config.num_replicas, "launched more than wanted"
        number = next(self._numbers)
        new = replica(number, Phase.LAUNCHED, tag=spec.tag, version=spec.version, config_version=0, since=self.now)
        new.allocation, new.drain_timeout_s = action.allocation, spec.config.drain_timeout_s
        self.observed.replicas[number] = new
        if self.unlucky(0.1):
            self.later(0.0, 1.0, lambda: self.exited(number))
        elif not self.unlucky(0.05):
            self.later(0.05, 0.3, lambda: self.fresh(number))

    def enter(self, r: Replica, phase: Phase) -> None:
        if phase > r.phase:
            r.phase, r.since = phase, self.now

    def publish(self) -> bool:
        """Whether a replica has left the table for the first time."""
        if any(r.adopted for r in self.observed.replicas.values()):
            return False
        leaving = [r for r in self.observed.replicas.values() if r.phase is Phase.LEAVING and not r.left_at]
        if leaving:
            self.table += 1
            version = self.table
            for r in leaving:
                r.left_at = version
            for router in self.observed.confirmed:
                if not self.unlucky(0.1):
                    self.later(0.0, 0.2, lambda router=router: self.router_has(router, version))  # type: ignore[misc]
        return bool(leaving)

    # What happens.

    def alive(self, number: int) -> Replica | None:
        r = self.observed.replicas.get(number)
        return None if r is None or r.killed else r

    def router_has(self, router: int, version: int) -> None:
        self.observed.confirmed[router] = max(version, self.observed.confirmed[router])

    def fresh(self, number: int) -> None:
        r = self.alive(number)
        if r is None:
            return
        self.enter(r, Phase.STARTING)
        spec = self.desired.backends.get(r.backend)
        if spec is None or spec.version != r.version:
            return
        r.sent_version = spec.config_version
        good = spec.code not in self.bad and spec.config.user_config not in self.bad and not self.unlucky(0.05)
        given = spec.config_version
        self.later(0.0, 2.0, lambda: self.ready(number, given) if good else self.failed(number, starting=True))

    def ready(self, number: int, config_version: int) -> None:
        r = self.alive(number)
        if r is not None:
            r.adopted = False
            r.config_version = max(r.config_version, config_version)
            r.sent_version = max(r.sent_version, config_version)
            self.enter(r, Phase.READY)
            self.settle_floors()
            if self.unlucky(0.1):
                self.later(0.0, 20.0, lambda: self.exited(number))

    def configured(self, number: int) -> None:
        r = self.alive(number)
        spec = self.desired.backends.get(r.backend) if r else None
        if r is None or spec is None:
            return
        if spec.config.user_config in self.bad:
            self.failed(number, starting=False)
        else:
            self.ready(number, r.sent_version)

    def failed(self, number: int, *, starting: bool) -> None:
        r = self.alive(number)
        if r is None:
            return
        failures = self.observed.failures.setdefault(r.backend, Failures())
        failures.reason = Reason.CONSTRUCTOR_FAILED if starting else Reason.RECONFIGURE_FAILED
        failures.start_failed(self.now, recovered=self.observed.recovered(r.backend, self.now))
        if not (r.backend in self.desired.fallbacks and r.phase is Phase.READY):
            self.do(Kill(number, "it failed"))

    def drained(self, number: int) -> None:
        r = self.alive(number)
        if r is not None:
            self.enter(r, Phase.STOPPING)
            if not self.unlucky(0.1):
                self.later(0.0, 0.5, lambda: self.exited(number))

    def exited(self, number: int) -> None:
        r = self.observed.replicas.pop(number, None)
        if r is None or r.killed or r.phase > Phase.READY:
            return
        failures = self.observed.failures.setdefault(r.backend, Failures())
        failures.reason = Reason.REPLICA_DIED
        if r.has_served(self.now):
            failures.lost(self.now, self.now - r.since if r.phase is Phase.READY else 0.0)
        else:
            failures.start_failed(self.now, recovered=self.observed.recovered(r.backend, self.now))

    def restart_controller(self) -> None:
        """A new controller adopts what lives, and knows nothing more than that it does."""
        before, self.observed.replicas = self.observed.replicas, Replicas()
        self.observed.failures = {}
        for number, old in before.items():
            new = replica(number, Phase.LAUNCHED, tag=old.backend, version=old.version, config_version=0)
            new.allocation, new.since, new.adopted = old.allocation, self.now, True
            self.observed.replicas[number] = new
            if old.killed:
                self.later(0.0, 0.1, lambda number=number: self.exited(number))  # type: ignore[misc]
            elif not self.unlucky(0.1):
                self.later(0.0, 1.0, lambda number=number, old=old: self.reported(number, old))  # type: ignore[misc]

    def reported(self, number: int, old: Replica) -> None:
        r = self.alive(number)
        if r is None:
            return
        r.adopted = False
        if old.phase is Phase.LAUNCHED:
            self.fresh(number)
        elif old.phase is Phase.STARTING:
            self.enter(r, Phase.STARTING)
            r.sent_version = old.sent_version
            self.later(0.0, 2.0, lambda: self.ready(number, old.sent_version))
        elif old.phase in (Phase.READY, Phase.LEAVING):
            self.ready(number, old.config_version)
        else:
            self.enter(r, Phase.STOPPING)
            self.later(0.0, 0.5, lambda: self.exited(number))

    # What must hold.

    def settle_floors(self) -> None:
        """A backend that is as wanted must not fall below that by plan's own doing, unless fewer are wanted."""
        for tag in [tag for tag in self.floor if tag not in self.desired.backends]:
            del self.floor[tag]
        for tag, spec in self.desired.backends.items():
            count = spec.config.num_replicas
            if tag in self.floor:
                self.floor[tag] = min(self.floor[tag], count)
            if tag not in self.desired.fallbacks and is_settled(self.desired, self.observed, tag):
                self.floor[tag] = count

    def check(self) -> None:
        self.observed.validate()
        if self.ever_crashed:
            return
        for tag, floor in self.floor.items():
            serving = [r for r in self.observed.of(tag) if r.phase is Phase.READY and not r.killed]
            assert len(serving) >= floor - self.slack, f"{len(serving)} of {floor} replicas of {tag!r} serve"

    def run(self, until: float) -> None:
        """Let time pass; all that happens by itself happens."""
        for _ in range(5_000):
            times = [time for time in (self._events[0][0] if self._events else None, self._wake) if time is not None]
            if not times or min(times) > until:
                self.now = max(self.now, until) if until < float("inf") else self.now
                return
            self.now = max(self.now, min(times))
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            self.step()
            self.settle_floors()
            self.check()
        pytest.fail("the world never comes to rest")

    def assert_settled(self) -> None:
        self.run(float("inf"))
        for tag in {*self.desired.backends, *(r.backend for r in self.observed.replicas.values())}:
            assert is_settled(self.desired, self.observed, tag), f"{tag!r}: {self.observed.of(tag)}"


def some_command(world: World, *, tags: str, resources: Resources, most: int) -> Change:
    """What an operator may think of next."""
    chance = world.chance
    tag, count = chance.choice(tags), chance.randint(1, most)
    code = "bad" if chance.random() < 0.2 else f"good {count % 2}"
    kind = chance.choice(["create", "create", "scale", "scale", "config", "user_config", "deploy", "deploy", "delete"])
    if kind == "create":
        return CreateBackend("id", tag, code, ORIGIN, TRAITS, BackendConfigSpec(num_replicas=count), resources)
    if kind == "scale":
        return UpdateBackendConfig("id", tag, {"num_replicas": count}, None)
    if kind == "config":
        return UpdateBackendConfig("id", tag, {"max_queued_queries": count}, None)
    if kind == "user_config":
        value = b"bad" if chance.random() < 0.3 else str(count).encode()
        return UpdateBackendConfig("id", tag, {"user_config": None}, value)
    if kind == "deploy":
        return Deploy("id", tag, code, ORIGIN, TRAITS, {}, None, resources, None, None, None)
    return DeleteBackend("id", tag, chance.random() < 0.5)
