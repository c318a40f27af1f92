"""controller.reconcile: replicas that die or do not start are tried again, and a bad change is taken back."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from pointsman.controller.failures import (
    BACKOFF,
    BACKOFF_ALONE_S,
    BUDGET,
    SLOW_RETRY_S,
    START_TRIES,
    STEADY_S,
    Failures,
)
from pointsman.controller.observed import record_exit, record_report, record_unhealthy
from pointsman.controller.reconcile import Launch, Revert, WakeAt, plan
from pointsman.controller.replicas import Phase, Replica, Unhealthy
from pointsman.controller.state import Fallback
from pointsman.engine.orders import ProcessEvent
from pointsman.model import Reason
from pointsman.wire.messages import SERVED_S, Report
from tests.unit.reconciling import backend, only, replica, see, want


def test_retries_slow_down() -> None:
    """A backend that keeps failing is tried again at once, then ever later, then every 30 s (CB10, F6)."""
    failures, delays = Failures(), []
    for _ in range(BUDGET + 3):
        failures.start_failed(100.0)
        assert failures.next_try == failures.next_try_alone
        delays.append(failures.next_try - 100.0)
    assert delays[: BUDGET - 1] == pytest.approx([0.0, 0.1, 0.2, 0.4])
    assert delays[BUDGET - 1 :] == [SLOW_RETRY_S] * 4
    assert failures.count == failures.starts == BUDGET + 3


def test_what_had_served_is_replaced_soon() -> None:
    """Replicas that had served and are lost again and again are replaced after 1 s at most while none is left, after
    10 s at most while others serve; no budget is used up (F1, F3)."""
    failures, alone, beside_others = Failures(), [], []
    for _ in range(20):
        failures.lost(100.0, 3.0)
        alone.append(failures.next_try_alone - 100.0)
        beside_others.append(failures.next_try - 100.0)
    assert alone[:6] == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.8, BACKOFF_ALONE_S])
    assert beside_others[:6] == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.8, 1.6])
    assert (max(alone), max(beside_others)) == (BACKOFF_ALONE_S, BACKOFF.last_s)
    assert (failures.count, failures.starts) == (20, 0)


@pytest.mark.parametrize(("lived_s", "count"), [(0.0, 5), (STEADY_S - 0.1, 5), (STEADY_S, 1), (1e6, 1)])
def test_a_replica_that_served_for_long_begins_a_new_count(lived_s: float, count: int) -> None:
    """A replica that dies after serving for a while is replaced at once, whatever happened before (FT3)."""
    failures = Failures(count=4, losses=4)
    failures.lost(7.0, lived_s)
    assert failures.count == failures.losses == count
    assert (failures.next_try == 7.0) == (count == 1)


class Deaths:
    """One backend, and replicas of it that end in one way or another, in a time of its own."""

    def __init__(self, replicas: int, *, starting: bool = False, **config: Any) -> None:
        self.desired = want(backend(replicas, **config), starting=starting)
        self.observed = see()
        self.now = 1000.0
        self._numbers = itertools.count(1)

    def ready(self, *, answered: bool = False, adopted: bool = False) -> Replica:
        """One more comes up."""
        number = next(self._numbers)
        self.observed.replicas[number] = replica(number, Phase.LAUNCHED, since=self.now, adopted=adopted)
        record_report(self.observed, self.desired, Report(number, "ready", 1, served=answered), b"", self.now)
        return self.observed.replicas[number]

    def dies(self, one: Replica, *, blameless: bool = False) -> None:
        event = ProcessEvent("exited", one.number, 1, "killed by SIGKILL", blameless=blameless)
        record_exit(self.observed, self.desired, event, self.now)

    def is_sick(self, one: Replica) -> None:
        one.unhealthy = Unhealthy(Reason.UNRESPONSIVE, "it hangs")
        record_unhealthy(self.observed, self.desired, one, self.now)
        one.killed = True
        self.dies(one)

    def never_starts(self) -> None:
        number = next(self._numbers)
        self.observed.replicas[number] = replica(number, Phase.STARTING, since=self.now)
        report = Report(number, "failed", 1, Reason.CONSTRUCTOR_FAILED, "OSError", "no weights")
        record_report(self.observed, self.desired, report, b"", self.now)
        self.observed.replicas[number].killed = True
        self.dies(self.observed.replicas[number])

    @property
    def wait_s(self) -> float:
        """How long it is until the next one is started."""
        actions = plan(self.desired, self.observed, self.now)
        return 0.0 if only(actions, Launch) else actions[-1].time - self.now  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ["killed", "hung"])
@pytest.mark.parametrize("proof", ["answered", "ready for a while"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_six_that_had_served_end_within_seconds(how: str, proof: str, replicas: int) -> None:
    """Six replicas that had served are killed, or hang, one after the other: the next is there within a second, however
    often that happens, and no change is needed to have it tried (F1, F3, F4)."""
    world = Deaths(replicas)
    for _ in range(30):
        one = world.ready(answered=proof == "answered")
        world.now += 0.5 if proof == "answered" else SERVED_S
        world.dies(one) if how == "killed" else world.is_sick(one)
        assert world.wait_s <= BACKOFF_ALONE_S
        world.now += world.wait_s
    assert world.observed.failures["b"].starts == 0


@pytest.mark.parametrize("how", ["never ready", "dies soon", "killed by its first requests"])
def test_what_never_serves_uses_up_the_budget(how: str) -> None:
    """Code that cannot be constructed, dies right after its start, or is killed by whatever comes first is tried five
    times in a row, then every 30 s (F6, F7)."""
    world = Deaths(1)
    waits = []
    for _ in range(8):
        if how == "never ready":
            world.never_starts()
        else:
            one = world.ready()
            world.now += 0.1 if how == "dies soon" else SERVED_S - 0.01
            world.dies(one)
        waits.append(world.wait_s)
        world.now += world.wait_s
    assert waits == pytest.approx([0.0, 0.1, 0.2, 0.4, *[SLOW_RETRY_S] * 4])


def test_failed_starts_do_not_hold_up_who_had_served() -> None:
    """One of three replicas cannot come up and is tried every 30 s; the two that serve are killed: they are replaced at
    once, also when the first one fails once more meanwhile (F1, G8)."""
    world = Deaths(3)
    here = [world.ready(answered=True), world.ready(answered=True)]
    for _ in range(BUDGET):
        world.never_starts()
    assert world.wait_s == SLOW_RETRY_S
    world.now += 1.0
    world.dies(here[0])
    assert world.wait_s == 0.0
    world.dies(here[1])
    assert world.wait_s == pytest.approx(0.1)
    world.now += 0.04
    world.never_starts()
    assert world.wait_s == pytest.approx(0.06)
    world.now += 0.07
    world.never_starts()
    world.never_starts()
    assert world.wait_s == pytest.approx(SLOW_RETRY_S)


def test_the_wait_ends_when_the_last_one_dies() -> None:
    """A backend waits up to 10 s to replace one of two while the other serves, and 1 s once that has died too (F3)."""
    world = Deaths(2)
    other = world.ready(answered=True)
    for _ in range(9):
        world.dies(world.ready(answered=True))
    assert world.wait_s == BACKOFF.last_s
    world.dies(other)
    assert world.wait_s == BACKOFF_ALONE_S


def test_who_serves_again_gets_the_whole_budget() -> None:
    """Four failed starts, a replica that serves, four failed starts: none of them waits for 30 s (F6)."""
    world = Deaths(9)
    for _ in range(3):
        for _ in range(BUDGET - 1):
            world.never_starts()
            assert world.wait_s < 1.0
        world.now += 1.0
        one = world.ready(answered=True)
    world.dies(one)
    world.never_starts()
    assert world.observed.failures["b"].starts == 1


@pytest.mark.parametrize("heard", [True, False])
def test_what_an_earlier_controller_launched_had_served(heard: bool) -> None:
    """Controller and replicas are killed together: what was adopted is replaced at once, whether or not it could still
    say how long it had served (F8, G4)."""
    world = Deaths(BUDGET + 2)
    here = [world.ready(answered=True, adopted=True) for _ in range(BUDGET + 2)]
    for one in here:
        if not heard:
            one.phase, one.adopted, one.served = Phase.LAUNCHED, True, False
        world.dies(one)
    assert world.wait_s <= BACKOFF_ALONE_S
    assert world.observed.failures["b"].starts == 0


def test_lost_nodes_and_leavers_are_nobodys_fault() -> None:
    """Replicas whose node is lost, and such as die while they make way, count for nothing (F14, F37)."""
    world = Deaths(1)
    for _ in range(BUDGET + 1):
        world.dies(world.ready(), blameless=True)
        leaver = world.ready()
        leaver.enter(Phase.LEAVING, world.now)
        world.dies(leaver)
    assert world.observed.failures == {}
    assert world.wait_s == 0.0


@pytest.mark.parametrize(("watch_s", "lives_s"), [(3.0, 2.5), (30.0, 12.0)])
def test_a_version_that_dies_while_it_is_watched_is_taken_back(watch_s: float, lives_s: float) -> None:
    """A new version whose replicas answer, and die some seconds after their start, is taken back after the third (F36,
    DP6)."""
    world = Deaths(1, starting=True, rollout_watch_s=watch_s)
    world.desired.fallbacks["b"] = Fallback(backend(1, version=0))
    for deaths in range(1, START_TRIES + 1):
        one = world.ready(answered=True)
        world.now += lives_s
        world.dies(one)
        actions = plan(world.desired, world.observed, world.now)
        assert (actions == [Revert("b")]) == (deaths == START_TRIES)


def test_retries_wait_their_turn() -> None:
    """Before its next try is due a failing backend is left alone, and the plan says when to look again (FT4)."""
    observed = see(replica(1), failures={"b": Failures(count=4, next_try=10.0, next_try_alone=10.0)})
    assert plan(want(backend(2)), observed, 9.9) == [WakeAt(10.0)]
    assert len(only(plan(want(backend(2)), observed, 10.0), Launch)) == 1


def test_a_failing_backend_delays_no_other() -> None:
    """While one backend waits for its next try, others are launched (CL6)."""
    observed = see(failures={"b": Failures(count=9, next_try=10.0, next_try_alone=10.0)})
    actions = plan(want(backend(), backend(tag="other")), observed, 1.0)
    assert [launch.spec.tag for launch in only(actions, Launch)] == ["other"]
    assert actions[-1] == WakeAt(10.0)


@pytest.mark.parametrize(
    ("reason", "count", "back"),
    [
        (Reason.CONSTRUCTOR_FAILED, 0, False),
        (Reason.CONSTRUCTOR_FAILED, START_TRIES - 1, False),
        (Reason.CONSTRUCTOR_FAILED, START_TRIES, True),
        (Reason.REPLICA_DIED, START_TRIES, True),
        (Reason.RECONFIGURE_FAILED, 1, True),
        (Reason.RECONFIGURE_FAILED, 0, False),
        (Reason.RECONFIGURE_TIMEOUT, 1, True),
    ],
)
@pytest.mark.parametrize("starting", [True, False])
def test_a_change_that_fails_is_taken_back(reason: Reason, count: int, back: bool, starting: bool) -> None:
    """After three failed starts, or one failed reconfigure, a change is taken back; without a change, never (CB10)."""
    observed = see(replica(1), failures={"b": Failures(count=count, reason=reason)})
    actions = plan(want(backend(2), starting=starting), observed, 1.0)
    assert (actions == [Revert("b")]) == (back and starting)
    assert bool(only(actions, Launch)) != (back and starting)


def test_a_change_is_taken_back_once() -> None:
    """A failure that has led to a way back does not lead to another (DP6)."""
    failures = Failures(count=START_TRIES, rolled_back=3)
    actions = plan(want(backend(), starting=True), see(failures={"b": failures}), 1.0)
    assert not only(actions, Revert)
