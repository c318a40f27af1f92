"""controller.reconcile: what to do next, decision by decision, and then in a small world with time of its own."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pointsman.controller import desired as wanted
from pointsman.controller.failures import BACKOFF, BACKOFF_ALONE_S, BUDGET, SLOW_RETRY_S, STEADY_S, Failures
from pointsman.controller.observed import Observed, Phase, Replica, Unhealthy, note_exit, note_report, note_unhealthy
from pointsman.controller.reconcile import (
    ADOPT_TIMEOUT_S,
    LAUNCH_TIMEOUT_S,
    START_TRIES,
    STOP_GRACE_S,
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
from pointsman.controller.state import Desired, Fallback, Room
from pointsman.engine.orders import ProcessEvent
from pointsman.exceptions import InsufficientResourcesError
from pointsman.model import (
    Allocation,
    BackendConfigSpec,
    BackendSpec,
    Capacity,
    Origin,
    Reason,
    Resources,
    TargetTraits,
)
from pointsman.wire.commands import (
    Change,
    CreateBackend,
    CreateEndpoint,
    DeleteBackend,
    Deploy,
    SetTraffic,
    UpdateBackendConfig,
)
from pointsman.wire.messages import SERVED_S, Report

ORIGIN = Origin("/", ())

A = TypeVar("A")

GPU = Resources(num_cpus=0, num_gpus=1)
TRAITS = TargetTraits(is_class=True, has_reconfigure=True)


def backend(
    replicas: int = 1,
    *,
    tag: str = "b",
    version: int = 1,
    config_version: int | None = None,
    resources: Resources | None = None,
    **config: Any,
) -> BackendSpec:
    return BackendSpec(
        tag=tag,
        version=version,
        config_version=version if config_version is None else config_version,
        code="code",
        origin=ORIGIN,
        traits=TRAITS,
        config=BackendConfigSpec(num_replicas=replicas, **config),
        resources=resources or Resources(),
    )


def want(*specs: BackendSpec, starting: bool = False) -> Desired:
    """These backends; ``starting`` ones have something to go back to."""
    fallbacks = {spec.tag: Fallback(None) for spec in specs} if starting else {}
    return Desired(9, {spec.tag: spec for spec in specs}, {}, fallbacks)


def replica(
    number: int,
    phase: Phase = Phase.READY,
    *,
    tag: str = "b",
    version: int = 1,
    config_version: int = 1,
    told_version: int | None = None,
    since: float = 0.0,
    resources: Resources | None = None,
    gpus: tuple[int, ...] = (),
    **more: Any,
) -> Replica:
    return Replica(
        number=number,
        tag=f"{tag}#{number}",
        backend=tag,
        version=version,
        allocation=Allocation(resources or Resources(), gpus),
        since=since,
        phase=phase,
        config_version=config_version,
        told_version=config_version if told_version is None else told_version,
        **more,
    )


def see(
    *replicas: Replica,
    capacity: Capacity | None = None,
    failures: dict[str, Failures] | None = None,
    confirmed: dict[int, int] | None = None,
) -> Observed:
    observed = Observed(capacity or Capacity(), {r.number: r for r in replicas}, failures or {}, confirmed or {})
    observed.validate()
    return observed


def only(actions: list[Action], kind: type[A]) -> list[A]:
    return [action for action in actions if isinstance(action, kind)]


def numbers(actions: list[Action], kind: type[Leave] | type[Kill] | type[Drain] | type[Configure]) -> list[int]:
    return [action.number for action in only(actions, kind)]


# --- how many -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "launches"),
    [
        ([], 3),
        ([Phase.LAUNCHED], 2),
        ([Phase.STARTING, Phase.READY], 1),
        ([Phase.LAUNCHED, Phase.STARTING, Phase.READY], 0),
        ([Phase.LEAVING, Phase.DRAINING, Phase.STOPPING], 3),
        ([Phase.READY, Phase.READY, Phase.READY, Phase.STOPPING], 0),
    ],
)
def test_launches_up_to_what_is_wanted(there: list[Phase], launches: int) -> None:
    """Three replicas are wanted: what starts or serves counts, what is on its way out does not (CB9, SO6)."""
    observed = see(*(replica(number, phase) for number, phase in enumerate(there, 1)))
    actions = plan(want(backend(3)), observed, 1.0)
    assert len(only(actions, Launch)) == launches
    assert not only(actions, Leave)
    assert not [action for action in only(actions, Kill) if observed.replicas[action.number].is_current]


def test_nothing_to_do() -> None:
    """When all is as wanted, nothing is done and nothing is waited for (SO5)."""
    assert plan(want(backend(2)), see(replica(1), replica(2)), 5.0) == []


def test_killed_replicas_are_replaced() -> None:
    """A replica that was told to die no longer counts, and is not killed again (FT3)."""
    actions = plan(want(backend()), see(replica(1, killed=True)), 1.0)
    assert len(only(actions, Launch)) == 1
    assert not only(actions, Kill)


@pytest.mark.parametrize(
    ("there", "keep", "gone"),
    [
        ({1: Phase.READY, 2: Phase.READY, 3: Phase.READY}, 1, [3, 2]),
        ({1: Phase.STARTING, 2: Phase.READY, 3: Phase.READY}, 2, [1]),
        ({1: Phase.STARTING, 2: Phase.READY, 3: Phase.LAUNCHED}, 1, [3, 1]),
        ({1: Phase.READY, 2: Phase.STARTING, 3: Phase.READY, 4: Phase.STARTING}, 1, [4, 2, 3]),
    ],
)
def test_who_goes_first(there: dict[int, Phase], keep: int, gone: list[int]) -> None:
    """On a scale-down replicas that still start go first, then the newest; serving ones leave in order (SO2, SO8)."""
    actions = plan(want(backend(keep)), see(*(replica(number, phase) for number, phase in there.items())), 1.0)
    going = [action for action in actions if isinstance(action, (Leave, Kill))]
    assert [action.number for action in going] == gone
    for action in going:
        assert isinstance(action, Leave) == (there[action.number] is Phase.READY)


def test_launches_take_what_is_free() -> None:
    """Two backends that start together get different GPUs, and what does not fit is not launched (RM3, FR1)."""
    desired = want(backend(2, tag="a", resources=GPU), backend(2, tag="b", resources=GPU))
    observed = see(replica(1, tag="a", resources=GPU, gpus=(1,)), capacity=Capacity(num_gpus=3))
    launches = only(plan(desired, observed, 1.0), Launch)
    assert [(launch.spec.tag, launch.allocation.gpus) for launch in launches] == [("a", (0,)), ("b", (2,))]


def test_what_still_runs_holds_its_share() -> None:
    """A replica on its way out holds its GPU to the end: nobody else is launched on it (FR4)."""
    for phase in (Phase.LEAVING, Phase.DRAINING, Phase.STOPPING):
        leaver = replica(1, phase, tag="gone", resources=GPU, gpus=(0,))
        observed = see(leaver, capacity=Capacity(num_gpus=1))
        assert not only(plan(want(backend(resources=GPU)), observed, 1.0), Launch)


@pytest.mark.parametrize(
    ("phase", "expected"),
    [(Phase.LAUNCHED, Kill), (Phase.STARTING, Kill), (Phase.READY, Leave), (Phase.STOPPING, None)],
)
def test_replicas_of_a_deleted_backend_go(phase: Phase, expected: type | None) -> None:
    """When its backend is deleted a serving replica leaves in order, and one that starts is killed (DR5)."""
    actions = [a for a in plan(Desired(), see(replica(1, phase)), 1.0) if not isinstance(a, WakeAt)]
    assert [type(action) for action in actions] == ([expected] if expected else [])


# --- new versions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("new", "launches", "leaves"),
    [
        ([], 2, []),
        ([Phase.STARTING], 1, []),
        ([Phase.STARTING, Phase.STARTING], 0, []),
        ([Phase.READY, Phase.STARTING], 0, [2]),
        ([Phase.READY, Phase.READY], 0, [2, 1]),
    ],
)
def test_new_versions_come_up_before_old_ones_go(new: list[Phase], launches: int, leaves: list[int]) -> None:
    """On a deploy each old replica leaves once a new one serves in its place, the newest first (DP3, DP5)."""
    fresh = (replica(number, phase, version=2, config_version=2) for number, phase in enumerate(new, 3))
    actions = plan(want(backend(2, version=2)), see(replica(1), replica(2), *fresh), 1.0)
    assert len(only(actions, Launch)) == launches
    assert numbers(actions, Leave) == leaves
    assert not only(actions, Kill)


def test_a_new_version_that_lacks_its_config_is_not_up() -> None:
    """An old replica stays until the new one has applied the newest configuration too (DP3, RC2)."""
    new = replica(2, version=2, config_version=2)
    actions = plan(want(backend(version=2, config_version=3)), see(replica(1), new), 1.0)
    assert not only(actions, Leave)
    assert numbers(actions, Configure) == [2]


def test_starting_replicas_of_an_old_version_are_not_waited_for() -> None:
    """A replica of an old version that still starts is dropped once the new version is up (DP3)."""
    observed = see(replica(1, Phase.STARTING), replica(2, version=2, config_version=2))
    assert numbers(plan(want(backend(version=2)), observed, 1.0), Kill) == [1]


def full_house(**phases: Phase) -> Observed:
    """Two GPUs, each held by an old replica in the given phase; those not given have gone."""
    here = [replica(int(n[1:]), phase, resources=GPU, gpus=(int(n[1:]) - 1,)) for n, phase in phases.items()]
    for leaver in here:
        leaver.left_at = 5
    return see(*here, capacity=Capacity(num_gpus=2), confirmed={1: 4})


def test_without_room_one_old_replica_makes_way() -> None:
    """When every GPU is taken, a deploy takes out one old replica, the newest, and launches none yet (DP5)."""
    actions = plan(want(backend(2, version=2, resources=GPU)), full_house(r1=Phase.READY, r2=Phase.READY), 1.0)
    assert numbers(actions, Leave) == [2]
    assert not only(actions, Launch)


@pytest.mark.parametrize("phase", [Phase.LEAVING, Phase.DRAINING, Phase.STOPPING])
def test_while_one_makes_way_the_others_serve(phase: Phase) -> None:
    """While the first old replica is on its way out, the second one keeps serving (DP5)."""
    actions = plan(want(backend(2, version=2, resources=GPU)), full_house(r1=Phase.READY, r2=phase), 1.0)
    assert not only(actions, Leave)
    assert not only(actions, Launch)


def test_while_one_is_being_killed_the_others_serve() -> None:
    """While an old replica that was killed has not exited, the second one keeps serving (DP5)."""
    observed = full_house(r1=Phase.READY, r2=Phase.DRAINING)
    observed.replicas[2].killed = True
    assert plan(want(backend(2, version=2, resources=GPU)), observed, 1.0) == []


def test_room_that_was_made_is_used() -> None:
    """When the first old replica has gone, its GPU gets a new one, and the second old one still serves (DP5)."""
    actions = plan(want(backend(2, version=2, resources=GPU)), full_house(r1=Phase.READY), 1.0)
    assert [launch.allocation.gpus for launch in only(actions, Launch)] == [(1,)]
    assert not only(actions, Leave)


@pytest.mark.parametrize(
    ("phase", "leaves"), [(Phase.LAUNCHED, []), (Phase.STARTING, []), (Phase.READY, [1])], ids=lambda v: str(v)
)
def test_the_next_one_makes_way_when_the_first_new_one_serves(phase: Phase, leaves: list[int]) -> None:
    """The second old replica goes when the first new one serves, not while it is still starting (DP5)."""
    observed = full_house(r1=Phase.READY)
    observed.replicas[3] = replica(3, phase, version=2, config_version=2, resources=GPU, gpus=(1,))
    actions = plan(want(backend(2, version=2, resources=GPU)), observed, 1.0)
    assert numbers(actions, Leave) == leaves
    assert not only(actions, Launch)


# --- failures -------------------------------------------------------------------------------------------------


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
        note_report(self.observed, self.desired, Report(number, "ready", 1, served=answered), b"", self.now)
        return self.observed.replicas[number]

    def dies(self, one: Replica, *, blameless: bool = False) -> None:
        event = ProcessEvent("exited", one.number, 1, "killed by SIGKILL", blameless=blameless)
        note_exit(self.observed, self.desired, event, self.now)

    def is_sick(self, one: Replica) -> None:
        one.unhealthy = Unhealthy(Reason.UNRESPONSIVE, "it hangs")
        note_unhealthy(self.observed, self.desired, one, self.now)
        one.killed = True
        self.dies(one)

    def never_starts(self) -> None:
        number = next(self._numbers)
        self.observed.replicas[number] = replica(number, Phase.STARTING, since=self.now)
        report = Report(number, "failed", 1, Reason.CONSTRUCTOR_FAILED, "OSError", "no weights")
        note_report(self.observed, self.desired, report, b"", self.now)
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


@pytest.mark.parametrize(
    ("there", "starting", "confirmed"),
    [
        ([replica(1), replica(2)], True, True),
        ([replica(1), replica(2)], False, False),
        ([replica(1), replica(2, Phase.STARTING)], True, False),
        ([replica(1), replica(2, config_version=0)], True, False),
        ([replica(1), replica(2, version=0)], True, False),
        ([replica(1), replica(2), replica(3)], True, True),
    ],
)
def test_changes_are_confirmed_when_they_have_come_up(there: list[Replica], starting: bool, confirmed: bool) -> None:
    """A change has come up when as many replicas as wanted serve the new version with the new config (CB9, RC2)."""
    actions = plan(want(backend(2), starting=starting), see(*there), 1.0)
    assert only(actions, Confirm) == ([Confirm("b")] if confirmed else [])


def test_running_replicas_are_told_new_configs_once() -> None:
    """Serving replicas that have not been told of the newest config are; the others are not told again (SO5, RC7)."""
    desired = want(backend(5, config_version=3))
    observed = see(
        replica(1, config_version=1),
        replica(2, config_version=1, told_version=3),
        replica(3, config_version=3),
        replica(4, Phase.STARTING, config_version=0, told_version=1),
        replica(5, config_version=1, killed=True),
    )
    actions = plan(desired, observed, 1.0)
    assert numbers(actions, Configure) == [1]
    assert not only(actions, Leave)


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ([(1, 1)], [1]),
        ([(1, 1), (1, 1)], [1]),
        ([(1, 2), (1, 1)], []),
        ([(2, 2), (1, 1)], [2]),
        ([(1, 1), (1, 1), (1, 1)], [1, 2]),
        ([(1, 1), (1, 2), (2, 2), (1, 1), (1, 1)], [1, 4]),
        ([(2, 2), (2, 2), (1, 1)], [3]),
    ],
    ids=str,
)
def test_half_of_the_replicas_take_a_user_config_at_a_time(versions: list[tuple[int, int]], told: list[int]) -> None:
    """While some replicas take a new ``user_config`` as many take new work; a single one has no others (RC9)."""
    replicas = [
        replica(number, config_version=applied, told_version=told) for number, (applied, told) in enumerate(versions, 1)
    ]
    desired = want(backend(len(replicas), config_version=2, user_config=b"new"), starting=True)
    configures = only(plan(desired, see(*replicas), 1.0), Configure)
    assert configures == [Configure(number, others=len(replicas) > 1) for number in told]


# --- out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left_at", "routers", "now", "drained"),
    [
        (0, {}, 0.0, False),
        (0, {1: 99}, 1.9, False),
        (7, {}, 0.0, True),
        (7, {1: 7, 2: 8}, 0.0, True),
        (7, {1: 7, 2: 6}, 1.9, False),
        (7, {1: 0}, 1.9, False),
        (7, {1: 7, 2: 6}, 2.0, True),
        (0, {1: 1}, 2.0, False),
    ],
)
@pytest.mark.parametrize("deleted", [True, False])
def test_leavers_wait_for_the_routers(
    left_at: int, routers: dict[int, int], now: float, drained: bool, deleted: bool
) -> None:
    """A replica drains when no router can choose it any more, or when the grace of 2 s is over (DR5)."""
    desired = Desired() if deleted else want(backend(1))
    here = [] if deleted else [replica(1)]
    actions = plan(desired, see(*here, replica(2, Phase.LEAVING, left_at=left_at), confirmed=routers), now)
    # Before a table without it is published there is nothing that routers could confirm.
    assert actions == ([Drain(2)] if drained else [WakeAt(2.0)] if left_at else [])


def test_the_grace_is_the_backends_own() -> None:
    """The longest wait for routers is what the backend's config says (DR5)."""
    observed = see(replica(1), replica(2, Phase.LEAVING, left_at=7, since=10.0, drain_confirm_s=0.5), confirmed={1: 6})
    desired = want(backend(1))
    assert plan(desired, observed, 10.4) == [WakeAt(10.5)]
    assert plan(desired, observed, 10.5) == [Drain(2)]


@pytest.mark.parametrize("deleted", [True, False])
def test_drains_end(deleted: bool) -> None:
    """A replica that is still busy at its drain limit is killed, also when its backend is deleted already (DR2)."""
    desired = Desired() if deleted else want(backend(1, drain_timeout_s=1.0))
    here = [] if deleted else [replica(1)]
    observed = see(*here, replica(2, Phase.DRAINING, since=10.0, drain_timeout_s=1.0))
    assert plan(desired, observed, 10.9) == [WakeAt(11.0)]
    (kill,) = only(plan(desired, observed, 11.0), Kill)
    assert kill.number == 2
    assert "drain limit of 1 s" in kill.reason


def test_stopped_processes_end() -> None:
    """A process that was stopped and does not exit is killed after its grace (DR5)."""
    observed = see(replica(1, Phase.STOPPING, since=10.0))
    assert plan(Desired(), observed, 10.0) == [WakeAt(10.0 + STOP_GRACE_S)]
    assert numbers(plan(Desired(), observed, 10.0 + STOP_GRACE_S), Kill) == [1]


def test_code_that_closes_has_its_time() -> None:
    """A replica whose class has ``close`` may take its drain limit for it, besides the grace (CB11, DR5)."""
    observed = see(replica(1, Phase.STOPPING, since=10.0, drain_timeout_s=5.0, has_close=True))
    assert plan(Desired(), observed, 10.0) == [WakeAt(15.0 + STOP_GRACE_S)]
    assert numbers(plan(Desired(), observed, 15.0 + STOP_GRACE_S), Kill) == [1]


@pytest.mark.parametrize(("adopted", "limit_s"), [(False, LAUNCH_TIMEOUT_S), (True, ADOPT_TIMEOUT_S)])
def test_silent_processes_are_killed(adopted: bool, limit_s: float) -> None:
    """A launched or adopted process that never reports is killed when its time is up, and counts until then (FT8)."""
    observed = see(replica(1, Phase.LAUNCHED, since=10.0, adopted=adopted))
    assert plan(want(backend()), observed, 10.0) == [WakeAt(10.0 + limit_s)]
    actions = plan(want(backend()), observed, 10.0 + limit_s)
    assert numbers(actions, Kill) == [1]
    assert f"{limit_s:g} s" in only(actions, Kill)[0].reason


@pytest.mark.parametrize(
    "desired", [Desired(), want(backend(version=2)), want(backend(0))], ids=["deleted", "old", "surplus"]
)
def test_nothing_is_killed_twice(desired: Desired) -> None:
    """A silent process that is not wanted any more either is killed once (FT4)."""
    observed = see(replica(1, Phase.LAUNCHED, since=0.0))
    assert numbers(plan(desired, observed, LAUNCH_TIMEOUT_S), Kill) == [1]


def test_slow_constructors_are_not_killed() -> None:
    """A model that takes an hour to load is waited for (CL6)."""
    assert plan(want(backend()), see(replica(1, Phase.STARTING, config_version=0)), 3600.0) == []


def test_the_earliest_reason_to_wake_counts() -> None:
    """With several things to wait for the plan wakes for the first of them, and says so last (DR5)."""
    observed = see(
        replica(1, Phase.LAUNCHED, since=0.0),
        replica(2, Phase.DRAINING, since=0.0),
        replica(3, Phase.STOPPING, since=0.5),
        failures={"b": Failures(count=2, next_try_alone=2.25)},
    )
    actions = plan(want(backend(2)), observed, 1.0)
    assert actions == [WakeAt(2.25)]


# --- what is settled, what is consistent ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "starting", "settled"),
    [
        ([replica(1), replica(2)], False, True),
        ([replica(1), replica(2)], True, False),
        ([replica(1)], False, False),
        ([replica(1), replica(2, Phase.STARTING)], False, False),
        ([replica(1), replica(2), replica(3, Phase.STOPPING)], False, False),
        ([replica(1), replica(2, version=2)], False, False),
        ([replica(1), replica(2, config_version=0)], False, False),
        ([replica(1), replica(2), replica(3, tag="other")], False, True),
    ],
)
def test_settled_means_exactly_as_wanted(there: list[Replica], starting: bool, settled: bool) -> None:
    """A call that waits for a backend returns when nothing starts, nothing is left over, nothing can go back (SO7)."""
    assert is_settled(want(backend(2), starting=starting), see(*there), "b") == settled


def test_a_deleted_backend_is_settled_when_it_is_gone() -> None:
    """A delete returns when the last replica has gone (DR1, SO7)."""
    assert is_settled(Desired(), see(replica(1, tag="other")), "b")
    assert not is_settled(Desired(), see(replica(1, Phase.STOPPING)), "b")


@pytest.mark.parametrize(
    "broken",
    [
        [replica(1, resources=GPU, gpus=(0,)), replica(2, resources=GPU, gpus=(0,))],
        [
            replica(1, resources=Resources(num_gpus=0.6), gpus=(0,)),
            replica(2, resources=Resources(num_gpus=0.5), gpus=(0,)),
        ],
    ],
)
def test_double_use_of_a_gpu_is_noticed(broken: list[Replica]) -> None:
    """A picture in which two replicas hold the same GPU is recognised as wrong (FR4)."""
    with pytest.raises(AssertionError, match="more than once"):
        Observed(replicas={r.number: r for r in broken}).validate()


def test_double_tags_are_noticed() -> None:
    """A picture in which two replicas have one tag is recognised as wrong (IN13)."""
    twin = replica(2)
    twin.tag = "b#1"
    with pytest.raises(AssertionError, match="share a tag"):
        Observed(replicas={1: replica(1), 2: twin}).validate()


# --- a small world ---------------------------------------------------------------------------------------------


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
            self.desired, _ = wanted.apply(self.desired, command, Room(self.observed.capacity, held))
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
            failures.take_back(failed)
            self.settle_floors()
        elif isinstance(action, Launch):
            self.launch(action)
        else:
            r = self.observed.replicas[action.number]
            if isinstance(action, Configure):
                r.told_version = self.desired.backends[r.backend].config_version
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
        self.observed.replicas[number] = replica(
            number, Phase.LAUNCHED, tag=spec.tag, version=spec.version, config_version=0, since=self.now
        )
        self.observed.replicas[number].allocation = action.allocation
        self.observed.replicas[number].drain_timeout_s = spec.config.drain_timeout_s
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
        r.told_version = spec.config_version
        good = spec.code not in self.bad and spec.config.user_config not in self.bad and not self.unlucky(0.05)
        given = spec.config_version
        self.later(0.0, 2.0, lambda: self.ready(number, given) if good else self.failed(number, starting=True))

    def ready(self, number: int, config_version: int) -> None:
        r = self.alive(number)
        if r is not None:
            r.adopted = False
            r.config_version = max(r.config_version, config_version)
            r.told_version = max(r.told_version, config_version)
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
            self.ready(number, r.told_version)

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
        before, self.observed.replicas = self.observed.replicas, {}
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
            r.told_version = old.told_version
            self.later(0.0, 2.0, lambda: self.ready(number, old.told_version))
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
    code = "bad" if chance.random() < 0.2 else "good"
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


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 2**32))
def test_whatever_operators_do_no_replica_is_missed(seed: int) -> None:
    """Through deploys, scalings and bad versions a backend never serves with fewer than it should (DP3, DP6, SO11)."""
    world = World(seed, capacity=Capacity())
    for _ in range(25):
        world.change(some_command(world, tags="ab", resources=Resources(), most=4))
        world.run(world.now + world.chance.choice([0.0, 0.1, 1.0, 10.0]))
    world.assert_settled()


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32))
def test_without_room_versions_are_swapped_one_by_one(seed: int) -> None:
    """With every GPU taken a deploy costs one replica at a time, and ends with all of them new (DP5)."""
    world = World(seed, capacity=Capacity(num_gpus=3))
    world.slack = 1
    create = CreateBackend("id", "a", "good", ORIGIN, TRAITS, BackendConfigSpec(num_replicas=3), GPU)
    world.change(create)
    world.run(float("inf"))
    assert world.floor == {"a": 3}
    for _ in range(3):
        code = "bad" if world.chance.random() < 0.3 else "good"
        world.change(Deploy("id", "a", code, ORIGIN, TRAITS, {}, None, GPU, None, None, None))
        world.run(float("inf"))
        world.assert_settled()
        assert len(world.observed.replicas) == 3


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 2**32), gpus=st.integers(1, 4))
@example(seed=170600, gpus=1)  # both routers miss the table that a replica has left
def test_whatever_crashes_all_is_as_wanted_in_the_end(seed: int, gpus: int) -> None:
    """Processes die, hang and go silent, the controller too, and when that ends all is as wanted (FT3, FT6, FT8)."""
    world = World(seed, capacity=Capacity(num_gpus=gpus), crash=True)
    for _ in range(25):
        resources = Resources(num_cpus=0, num_gpus=world.chance.choice([0.0, 0.5, 1.0]))
        world.change(some_command(world, tags="ab", resources=resources, most=3))
        world.run(world.now + world.chance.choice([0.0, 0.1, 1.0, 20.0]))
        if world.chance.random() < 0.2:
            world.restart_controller()
            world.step()
    world.crash = False
    world.bad.clear()
    world.run(float("inf"))
    for tag in world.desired.backends:
        # Room may have been promised twice while replicas were dying; what fits must run.
        missing = plan(world.desired, world.observed, world.now)
        assert missing == [], f"{tag!r}: {missing}"
    world.observed.validate()


def test_a_canary_in_the_small_world() -> None:
    """New backend, traffic over to it, old one deleted: each step comes to rest, and the old one is gone (RU1, TR5)."""
    world = World(1, capacity=Capacity())
    for tag in ("old", "new"):
        world.change(CreateBackend("id", tag, "good", ORIGIN, TRAITS, BackendConfigSpec(num_replicas=2), Resources()))
        world.assert_settled()
    world.change(CreateEndpoint("id", "e", "old", "/e", ("GET",), False))
    world.change(SetTraffic("id", "e", {"new": 1.0}))
    world.change(DeleteBackend("id", "old", False))
    assert not is_settled(world.desired, world.observed, "old")
    world.assert_settled()
    assert {r.backend for r in world.observed.replicas.values()} == {"new"}
    assert msgspec.structs.asdict(world.desired.endpoints["e"].policy)["weights"] == {"new": 1.0}


def test_a_replica_launched_before_a_failed_deploy_still_comes_up() -> None:
    """A replica that was just starting when a bad version was deployed is not forgotten on the way back (DP6, FT3)."""
    world = World(1, capacity=Capacity())
    world.change(CreateBackend("id", "a", "good", ORIGIN, TRAITS, BackendConfigSpec(num_replicas=3), Resources()))
    world.assert_settled()
    world.exited(1)
    world.floor.clear()
    world.step()
    assert len(world.observed.replicas) == 3
    world.change(Deploy("id", "a", "bad", ORIGIN, TRAITS, {}, None, Resources(), None, None, None))
    world.assert_settled()
    assert world.desired.backends["a"].code == "good"


@pytest.mark.parametrize(
    "desired", [Desired(), want(backend(1)), want(backend(1, version=2))], ids=["deleted", "surplus", "old"]
)
def test_adopted_replicas_are_heard_before_they_are_ended(desired: Desired) -> None:
    """After a controller's death a replica that is not wanted any more may be serving: it is asked first (FT8, G1)."""
    unheard = [replica(number, Phase.LAUNCHED, adopted=True) for number in (1, 2)]
    actions = plan(desired, see(*unheard), 0.1)
    assert not only(actions, Kill)
    assert not only(actions, Leave)
