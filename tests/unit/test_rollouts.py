"""What becomes of a rollout: judged by evidence, and changed by what others do. No clock, no process."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.controller.history import history_of
from pointsman.controller.rollouts.changes import settled
from pointsman.controller.rollouts.gates import Metric, Tick
from pointsman.controller.rollouts.judge import judge
from pointsman.controller.rollouts.words import view_of, views_of
from pointsman.controller.state import Arms, Desired, Means, Rollout, of_this_start
from pointsman.controller.transitions import carry_out, confirmed
from pointsman.model import TrafficPolicy
from pointsman.model.comparison import Comparison, Exact
from pointsman.model.evidence import PINNED, MetricKey, MetricTally, PairKey, PairTally
from pointsman.model.rollout import RolloutPlan, RolloutView
from pointsman.stats.latency import bucket_of
from pointsman.testing import FakeEvidence
from pointsman.wire.commands import Change, DeleteEndpoint, Pin, RollbackTraffic, SetTraffic, ShadowTraffic
from pointsman.wire.rollouts import ControlRollout, StartRollout
from tests.properties import examples
from tests.rollouts import ENDPOINT, MAIN, NEW, NOW, started
from tests.unit.desiring import EMPTY, ROOM, endpoint, replace
from tests.unit.planning import applied, begun, served, wanted

OTHER = "other"


class Story:
    """A rollout whose seconds a test tells."""

    def __init__(self, former: dict[str, float] | None = None, **plan: Any) -> None:
        plan = {"steps": (0.1, 0.5, 1.0), "hold_s": 3, "min_samples": 10, **plan}
        self.state: Desired = started(RolloutPlan(ENDPOINT, NEW, **plan), former)
        self.counts = FakeEvidence()

    @property
    def rollout(self) -> Rollout:
        return max(self.state.rollouts.values(), key=lambda one: one.id)

    @property
    def view(self) -> RolloutView:
        return view_of(self.state, self.rollout)

    @property
    def policy(self) -> TrafficPolicy:
        return self.state.endpoints[ENDPOINT].policy

    @property
    def weights(self) -> dict[str, float]:
        return self.policy.weights

    @property
    def last_words(self) -> str:
        return history_of(self.state)[-1].change

    def pass_seconds(self, count: int = 1, *, main: int = 90, new: int = 10, failed: int = 0, **more: Any) -> None:
        """Seconds pass, each with so many requests, of which the new version fails ``failed``."""
        for _ in range(count):
            if self.rollout.is_live:
                version = self.policy.version
                self.counts.count(ENDPOINT, MAIN, version=version, latencies=[0.1] * main)
                self.counts.count(ENDPOINT, NEW, version=version, latencies=[0.1] * new, errors=failed)
                self.judge(**more)

    def judge(self, elapsed_s: float = 1.0, unhealthy: str = "") -> None:
        rollout, verdict = judge(self.rollout, self.counts.tick(), elapsed_s, unhealthy)
        self.state = settled(self.state, rollout, verdict, NOW)
        # What is stored is read by the next controller, and must be the same.
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(self.state), type=Desired) == self.state

    def say(self, command: Change) -> str:
        self.state, note = carry_out(self.state, command, ROOM, NOW)
        self.state = msgspec.structs.replace(self.state, fallbacks={})  # new code has come up
        return note

    def control(self, verb: str) -> str:
        return self.say(ControlRollout("id", ENDPOINT, verb, by="bob"))


def test_a_switch_at_once_is_held_against_what_was_before() -> None:
    """With one step, to all traffic, a version that fails more often than the others did before goes back, and one that
    fails as often is promoted (RO4, RO7)."""
    for failed, ends in ((30, "rolled_back"), (1, "promoted")):
        story = Story(steps=(1.0,))
        story.counts.count(ENDPOINT, MAIN, version=story.rollout.former_policy, latencies=[0.1] * 5000, errors=50)
        story.pass_seconds(4, main=0, new=100, failed=failed)
        assert story.view.state == ends
        assert story.view.gates["error_rate"].baseline == 0.01
    story = Story(steps=(1.0,))
    story.say(replace(NEW))
    story.control("resume")
    assert story.rollout.former_policy == 0, "that was about other code"


def test_the_others_share_the_rest() -> None:
    """At each step the new version has its weight, and the others share the rest as before; shadows stay (RO3)."""
    story = Story({MAIN: 0.75, OTHER: 0.25})
    assert story.weights == pytest.approx({MAIN: 0.675, OTHER: 0.225, NEW: 0.1})
    story.say(ShadowTraffic("id", ENDPOINT, OTHER, 0.5))
    story.pass_seconds(3)
    assert story.weights == pytest.approx({MAIN: 0.375, OTHER: 0.125, NEW: 0.5})
    assert story.policy.shadows == {OTHER: 0.5}
    story.pass_seconds(3)
    assert story.weights == {MAIN: 0.0, OTHER: 0.0, NEW: 1.0}


def test_a_good_version_is_promoted() -> None:
    """Each step lasts its time and has its requests; after the last one the new version has all traffic (RO6, RO9)."""
    story = Story()
    assert story.view.waits_for == "3 s and 10 requests of new"
    assert story.last_words == "rollout 1: step 1 of 3: traffic main 90 %, new 10 %"
    story.pass_seconds(2, new=3)
    assert (story.view.step, story.view.held_s, story.view.samples) == (0, 2, {"baseline": 180, "canary": 6})
    story.pass_seconds(1, new=3)
    assert story.view.waits_for == "1 request of new"
    story.pass_seconds(1, new=3)
    assert (story.view.step, story.view.weight, story.view.held_s, story.view.exposed) == (1, 0.5, 0, 12)
    story.pass_seconds(6)
    assert story.view.state == "promoted"
    assert story.view.reason == "promoted to 100 % after 72 requests"
    assert story.weights == {MAIN: 0.0, NEW: 1.0}
    assert story.view.waits_for == ""
    assert story.view.ended == NOW
    assert story.last_words == "rollout 1: promoted to 100 % after 72 requests"


def test_a_bad_version_goes_back() -> None:
    """One that always fails is back after some seconds, and the status, the traffic history and the history of the
    instance say why in the same words (RO7)."""
    story = Story()
    story.pass_seconds(9, new=2, failed=2)
    assert story.view.state == "rolled_back"
    assert story.view.exposed <= 10
    assert story.weights == {MAIN: 1.0}
    reason = f"rolled back at 10 % after {story.view.exposed} requests: error_rate 100 % against 0 % (e "
    assert story.view.reason.startswith(reason)
    assert story.view.reason.endswith(" >= 40)")
    gate = story.view.gates["error_rate"]
    assert (gate.value, gate.baseline, gate.unit, gate.needed, gate.tripped) == (1.0, 0.0, "rate", 40, True)
    assert gate.e >= 40
    assert story.last_words == f"rollout 1: {story.view.reason}: traffic main 100 %"
    assert story.state.histories[ENDPOINT].changes[-1].change == f"rollout 1: {story.view.reason}"


def test_only_requests_of_the_step_count() -> None:
    """Pinned requests, and those that another policy had routed, are nobody's evidence (RO3, RO5)."""
    story = Story()
    for version in (story.policy.version - 1, story.policy.version + 1):
        story.counts.count(ENDPOINT, NEW, version=version, requests=50, errors=50)
    story.counts.count(ENDPOINT, NEW, version=story.policy.version, kind=PINNED, requests=50, errors=50)
    story.pass_seconds(2)
    assert (story.view.exposed, story.view.gates["error_rate"].value) == (20, 0)


def test_late_requests_of_a_step_count_still() -> None:
    """A request that ends when the next step has begun is evidence, but does not fill that step (RO5, RO6)."""
    story = Story()
    earlier = story.policy.version
    story.pass_seconds(3)
    assert story.view.step == 1
    for _ in range(5):
        story.counts.count(ENDPOINT, NEW, version=earlier, requests=2, errors=2)
        story.pass_seconds(1, new=0)
        if story.rollout.is_live:
            assert story.view.samples["canary"] == 0
    assert story.view.state == "rolled_back"


def test_errors_at_full_weight_are_seen() -> None:
    """With all traffic on the new version it is held against the most that the baseline can have failed (RO4)."""
    story = Story(steps=(0.5, 1.0), hold_s=60)
    story.pass_seconds(60, main=100, new=100)
    assert story.weights == {MAIN: 0.0, NEW: 1.0}
    story.pass_seconds(20, main=0, new=100)
    assert story.view.state == "running"
    story.pass_seconds(20, main=0, new=100, failed=10)
    assert story.view.state == "rolled_back"
    assert story.weights == {MAIN: 1.0}


def test_without_a_baseline_nothing_is_judged() -> None:
    """A rollout that begins at full weight has nothing to compare with, and says so (RO4)."""
    story = Story(steps=(1.0,))
    story.pass_seconds(2, main=0, failed=10)
    assert story.view.gates["error_rate"].baseline is None
    assert story.view.gates["error_rate"].e == 1
    story.pass_seconds(1, main=0, failed=10)
    assert story.view.state == "promoted"


@pytest.mark.parametrize("paused", [False, True], ids=["as it is", "after a pause"])
def test_what_lasts_too_long_is_inconclusive(paused: bool) -> None:
    """A step that does not get its requests is inconclusive after a while; it is judged on, and somebody may let it go
    on, with all of its time (RO8)."""
    story = Story(patience=2)
    story.pass_seconds(6, new=1)
    assert (story.view.state, story.view.weight) == ("inconclusive", 0.1)
    assert story.view.reason == "inconclusive: 6 s at 10 % and the step still lacks 4 requests of new"
    assert story.last_words == f"rollout 1: {story.view.reason}"
    version = story.state.version
    story.pass_seconds(5)
    assert (story.view.state, story.view.weight, story.state.version) == ("inconclusive", 0.1, version)
    assert story.view.samples["canary"] == 56
    if paused:
        story.control("pause")
    story.control("resume")
    story.pass_seconds(2)
    assert (story.view.state, story.view.step) == ("running", 0)
    story.pass_seconds(1)
    assert (story.view.state, story.view.step) == ("running", 1)


def test_an_inconclusive_version_still_goes_back() -> None:
    """While it is inconclusive, a gate that trips takes it back (RO8)."""
    story = Story(patience=2)
    story.pass_seconds(6, new=1)
    story.pass_seconds(9, failed=10)
    assert story.view.state == "rolled_back"


def test_inconclusive_can_mean_back() -> None:
    """Whoever asks for it has a rollout go back that is not over in time (RO8)."""
    story = Story(patience=1, on_inconclusive="rollback")
    story.pass_seconds(3, new=1)
    assert story.view.state == "rolled_back"
    assert "inconclusive: 3 s at 10 % and the step still lacks 7 requests of new" in story.view.reason
    assert story.weights == {MAIN: 1.0}


def test_rule_out() -> None:
    """With ``rule_out`` a step lasts until so many times the errors are ruled out, however many requests there were
    (RO6)."""
    story = Story(gates={"error_rate": {"rule_out": 3}}, steps=(0.5,), patience=1000)
    for _ in range(3):
        story.pass_seconds(1, main=50, new=50)
    assert story.view.waits_for == "to rule out 3 times the errors"
    for _ in range(200):
        story.counts.count(ENDPOINT, MAIN, version=story.policy.version, requests=100, errors=5)
        story.counts.count(ENDPOINT, NEW, version=story.policy.version, requests=100, errors=5)
        story.judge()
        if story.view.state == "promoted":
            break
    assert story.view.state == "promoted"
    assert 100 < story.view.exposed < 5000


def test_an_unhealthy_version_goes_back() -> None:
    """A backend that is UNHEALTHY goes back at once; without the gate, requests decide (RO10)."""
    story = Story()
    story.pass_seconds(1, unhealthy="backend 'new' is UNHEALTHY: its replica died")
    assert story.view.state == "rolled_back"
    assert story.view.reason.endswith("after 10 requests: health: backend 'new' is UNHEALTHY: its replica died")
    assert story.view.gates["health"].tripped
    unwatched = Story(gates={"error_rate": {}})
    unwatched.pass_seconds(2, unhealthy="it died")
    assert unwatched.view.state == "running"


def test_a_slow_version_goes_back() -> None:
    """One whose slowest requests take twice as long is back after some blocks of ten seconds (RO4)."""
    story = Story(hold_s=1000, steps=(0.5,))
    for _ in range(200):
        if story.rollout.is_live:
            story.counts.count(ENDPOINT, MAIN, version=story.policy.version, latencies=[0.1] * 49 + [0.3])
            story.counts.count(ENDPOINT, NEW, version=story.policy.version, latencies=[0.1] * 45 + [0.7] * 5)
            story.judge()
    assert story.view.state == "rolled_back"
    assert ": latency p99 693 ms against 302 ms" in story.view.reason
    assert story.rollout.exposed < 5000


def test_traffic_by_hand_stands() -> None:
    """Who sets traffic during a rollout ends it, also by the very weights that it has; theirs stand (RO10)."""
    for command in (
        SetTraffic("id", ENDPOINT, {MAIN: 0.5, NEW: 0.5}, by="bob"),
        SetTraffic("id", ENDPOINT, {MAIN: 0.9, NEW: 0.1}, by="bob"),
        RollbackTraffic("id", ENDPOINT, None, by="bob"),
        DeleteEndpoint("id", ENDPOINT, by="bob"),
    ):
        story = Story()
        story.pass_seconds(2)
        story.say(command)
        assert story.view.state == "superseded"
        assert story.view.reason.startswith("superseded at 10 % after 20 requests: bob has ")
        if isinstance(command, SetTraffic):
            assert story.weights == command.weights
            assert story.last_words == f"rollout 1: {story.view.reason}"
        with pytest.raises(ValueError, match=r"has ended: superseded"):
            story.control("resume")


def test_a_file_that_is_applied_stands_too() -> None:
    """Traffic that a configuration file sets ends a rollout, once it is in force; a file that is about other things
    does not (RO10)."""
    shop = applied(EMPTY, {"v1": wanted(), "v2": wanted()}, {"rank": served("/rank", v1=1.0)})
    for weights, state in (({"v1": 0.5, "v2": 0.5}, "superseded"), ({"v1": 0.99, "v2": 0.01}, "running")):
        story = Story()
        story.state, _ = carry_out(shop, StartRollout("id", RolloutPlan("rank", "v2")), ROOM, NOW)
        changed = {"v1": wanted(), "v2": wanted(num_replicas=2)}
        story.state = begun(story.state, changed, {"rank": served("/rank", **weights)})
        assert story.view.state == "running"
        story.state = confirmed(story.state, "v2", NOW)
        assert story.view.state == state


def test_shadows_and_pins_do_not_end_it() -> None:
    """A new shadow or pin changes nothing of a rollout: what was counted stays, and counting goes on (RO3)."""
    story = Story()
    story.pass_seconds(2)
    story.say(ShadowTraffic("id", ENDPOINT, NEW, 0.5))
    story.say(Pin("id", ENDPOINT, ("ann",), NEW))
    assert (story.view.state, story.view.exposed) == ("running", 20)
    story.pass_seconds(1)
    assert (story.view.exposed, story.view.step) == (30, 1)


@pytest.mark.parametrize("tag", [MAIN, NEW])
def test_new_code_pauses(tag: str) -> None:
    """New code on either side pauses a rollout. When it goes on, evidence begins anew, and what was exposed stays
    counted (RO10)."""
    story = Story()
    story.pass_seconds(2, failed=1)
    story.say(replace(tag))
    assert story.view.state == "paused"
    assert story.view.reason == f"paused at 10 % after 20 requests: backend {tag!r} got new code from someone"
    story.pass_seconds(5, failed=10)
    assert (story.view.state, story.view.held_s, story.view.exposed) == ("paused", 2, 20)
    version = story.policy.version
    story.control("resume")
    assert story.policy.version > version
    assert (story.view.gates["error_rate"].value, story.view.gates["error_rate"].e) == (None, 1)
    story.pass_seconds(1)
    assert (story.view.state, story.view.samples["canary"], story.view.exposed) == ("running", 10, 30)
    assert story.last_words.startswith("rollout 1: resumed at 10 %, without the evidence from before: traffic ")


def test_pause_and_resume() -> None:
    """A rollout that somebody paused keeps its weight, however well it does, and goes on where it was (RO1)."""
    story = Story()
    story.pass_seconds(2)
    story.control("pause")
    assert (story.view.state, story.view.reason) == ("paused", "paused at 10 % after 20 requests by bob")
    assert story.control("pause") == "rollout 1 is paused already: paused at 10 % after 20 requests by bob"
    story.pass_seconds(5)
    assert (story.view.state, story.view.held_s, story.view.weight) == ("paused", 2, 0.1)
    story.control("resume")
    assert story.control("resume") == "rollout 1 is running already"
    assert (story.view.state, story.view.reason, story.last_words) == ("running", "", "rollout 1: resumed at 10 %")
    story.pass_seconds(1)
    assert story.view.step == 1


def test_a_paused_version_still_goes_back() -> None:
    """A pause stops the way forward only: users are not left with a version that fails (RO10)."""
    story = Story()
    story.control("pause")
    story.pass_seconds(9, failed=10)
    assert story.view.state == "rolled_back"


def test_abort_and_promote() -> None:
    """Abort restores the weights from before, promote takes the last ones at once (RO10)."""
    story = Story({MAIN: 0.75, OTHER: 0.25})
    story.control("abort")
    assert (story.view.state, story.weights) == ("aborted", {MAIN: 0.75, OTHER: 0.25})
    assert story.view.reason == "aborted at 10 % after 0 requests by bob"
    story.say(StartRollout("id", RolloutPlan(ENDPOINT, NEW, steps=(0.1, 0.8))))
    story.control("promote")
    assert (story.view.id, story.view.state, story.view.step) == (2, "promoted", 1)
    assert story.weights == pytest.approx({MAIN: 0.15, OTHER: 0.05, NEW: 0.8})
    assert story.view.reason == "promoted from 10 % to 80 % after 0 requests by bob"
    assert views_of(story.state) == {ENDPOINT: story.view}
    with pytest.raises(ValueError, match="rollout 2 of endpoint 'greet' has ended"):
        story.control("pause")


def test_no_rollout() -> None:
    """Who asks for a rollout that there never was is told so (RO1)."""
    story = Story()
    story.say(endpoint("none", MAIN))
    for name, words in (("greeting", "does not exist"), ("none", "has had no rollout")):
        with pytest.raises(ValueError, match=words):
            story.say(ControlRollout("id", name, "pause"))
    with pytest.raises(ValueError, match="a rollout knows no 'stop'; it knows pause, resume, promote, abort"):
        story.control("stop")


def test_ended_rollouts_are_forgotten_at_last() -> None:
    """The state does not grow for ever: the last twenty are kept, and their numbers go on (RO9)."""
    story = Story()
    for _ in range(30):
        story.control("abort")
        story.say(StartRollout("id", RolloutPlan(ENDPOINT, NEW)))
    assert len(story.state.rollouts) == 21
    assert story.view.id == 31


def test_a_shadow_that_differs_takes_its_version_back() -> None:
    """Answers that do not match more often than the baseline's among each other are evidence, too (RO4)."""
    story = Story()
    story.control("abort")
    story.say(ShadowTraffic("id", ENDPOINT, NEW, 0.5, Comparison(Exact()), keep_comparison=False))
    key = PairKey(ENDPOINT, NEW, "now/main@1/2")
    story.counts.count_pairs(key, 100, 100)  # before the rollout: nothing of its
    story.say(StartRollout("id", RolloutPlan(ENDPOINT, NEW, gates={"mismatch": {}})))
    for _ in range(20):
        story.counts.count_pairs(key, 10, 1)
        story.counts.count_pairs(key._replace(noise=True), 10)
        story.counts.count_pairs(key._replace(began="now/new@2/2"), 1000)  # with itself
        story.pass_seconds(1)
    assert story.view.state == "rolled_back"
    assert "mismatch 10 % against 0 % (e " in story.view.reason


def test_a_metric_of_user_code_takes_a_version_back() -> None:
    """A score that falls by more than may be lost ends a rollout; one that stays does not (RO4)."""
    ends = []
    for score in (0.8, 0.9):
        story = Story(gates={"metrics": {"score": {"better": "higher", "max_loss": 0.05}}}, hold_s=1000)
        sums = {MAIN: 0.0, NEW: 0.0}
        for second in range(1, 300):
            if story.rollout.is_live:
                sums = {MAIN: sums[MAIN] + 9 + 0.1 * (second % 3), NEW: sums[NEW] + 10 * score + 0.1 * (second % 2)}
                story.counts.set_metrics(
                    {MetricKey(tag, "score"): MetricTally(10 * second, total) for tag, total in sums.items()}
                )
                story.pass_seconds(1)
        ends.append(story.view.state)
    assert ends == ["rolled_back", "running"]
    assert story.view.gates["metrics.score"].unit == "mean"


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e308])
def test_a_metric_without_bounds(value: float) -> None:
    """A metric that observes what is no number any more says nothing; the other gates are judged as before (RO4)."""
    gates = {"metrics": {"score": {"better": "lower"}}, "error_rate": {}}
    story = Story(gates=gates, hold_s=1000)
    for second in range(1, 60):
        sums = {MAIN: 5.0 * second, NEW: 5.0 * second if second < 15 else value}
        story.counts.set_metrics({MetricKey(tag, "score"): MetricTally(5 * second, sums[tag]) for tag in sums})
        story.pass_seconds(1)
    assert story.view.state == "running"
    assert story.view.exposed == 590
    story.pass_seconds(9, failed=10)
    assert ": error_rate " in story.view.reason


def test_an_instance_that_starts_again() -> None:
    """An instance that is started again from its store counts from 0, and nothing of that is lost (RO11)."""
    story = Story(hold_s=100)
    story.pass_seconds(5)
    story.counts = FakeEvidence()
    story.state = of_this_start(story.state, "another")
    story.pass_seconds(2)
    assert story.view.exposed == 70


def test_a_node_that_does_not_answer() -> None:
    """What a reading lacks, since a node does not answer in time, counts once when it is back (RO11)."""
    story = Story(hold_s=100, gates={"latency": {}, "metrics": {"score": {"better": "higher"}}})
    score = {MetricKey(tag, "score"): MetricTally(100, 100.0) for tag in (MAIN, NEW)}
    story.counts.set_metrics(score)
    story.pass_seconds(5)
    here, story.counts = story.counts, FakeEvidence()
    story.counts.count(ENDPOINT, NEW, version=story.policy.version, latencies=[0.2] * 20)  # a bucket of its own
    story.counts.set_metrics(dict.fromkeys(score, MetricTally(40, 40.0)))
    story.judge()
    story.judge()
    assert (story.view.exposed, story.rollout.totals.canary.latencies) == (50, {bucket_of(0.1): 50})
    assert story.rollout.metrics["score"].canary == MetricTally()
    story.counts = here
    story.pass_seconds(1)
    assert story.view.exposed == 60


def test_nodes_that_take_turns_not_to_answer() -> None:
    """While one node or the other does not answer, no pair has two mismatches: judging goes on (RO11)."""
    story = Story()
    story.control("abort")
    story.say(ShadowTraffic("id", ENDPOINT, NEW, 0.5, Comparison(Exact()), keep_comparison=False))
    story.say(StartRollout("id", RolloutPlan(ENDPOINT, NEW, gates={"mismatch": {}})))
    key = PairKey(ENDPOINT, NEW, "now/main@1/2")
    story.judge()
    for pairs, mismatched in ((100, 0), (101, 100), (201, 100)):
        story.counts = FakeEvidence()
        story.counts.count_pairs(key, pairs, mismatched)
        story.counts.count_pairs(key._replace(noise=True), pairs, mismatched)
        story.judge()
    assert story.rollout.pairs.compared == PairTally(201, 1)
    assert story.view.state == "running"


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
@examples(60)
def test_whoever_judges_when(seconds: list[tuple[int, int, bool]]) -> None:
    """However few of the readings are judged, each request counts once, in all that is counted (RO11)."""
    story = Story(hold_s=10_000, gates={"latency": {}})
    for main, new, judged in seconds:
        for tag, number in ((MAIN, main), (NEW, new)):
            story.counts.count(
                ENDPOINT, tag, version=story.policy.version, latencies=[0.1] * number, errors=number // 2
            )
        if judged:
            story.judge()
    story.judge()
    arms = story.rollout.totals
    sent = [sum(numbers) for numbers in zip(*[(main, new) for main, new, _ in seconds], strict=True)]
    assert [arms.baseline.requests, arms.canary.requests] == sent
    assert sum(arms.canary.latencies.values()) == story.view.exposed == sent[1]
    assert arms.canary.errors == sum(new // 2 for _, new, _ in seconds)


def test_the_same_evidence_counts_once() -> None:
    """Who judges a reading twice, such as the next controller, counts nothing twice (RO11)."""
    story = Story(hold_s=100)
    story.pass_seconds(2, failed=1)
    before = story.rollout
    story.judge(elapsed_s=0.0)
    story.judge(elapsed_s=0.0)
    after = story.rollout
    assert (after.exposed, after.samples, after.totals) == (before.exposed, before.samples, before.totals)
    assert after.gates["error_rate"] == before.gates["error_rate"]


@pytest.mark.parametrize(("better", "share"), [("higher", 0.05), ("lower", 0.95)])
def test_a_metric_of_which_most_values_are_0(better: str, share: float) -> None:
    """Clicks of one in a hundred: the arm with few calls has none in most seconds, which is no difference (RO4)."""
    back = 0
    for run in range(40):
        rng = np.random.default_rng([24, run])
        gate = Metric("clicks", {"better": better, "max_loss": 0.0}, 0.025, None)
        for _ in range(300):
            new = int(rng.binomial(20, share))
            main, canary = (MetricTally(n, float(rng.binomial(n, 0.01))) for n in (20 - new, new))
            gate.add(Tick(1.0, Arms(), metrics={"clicks": Means(main, canary)}))
        back += gate.tripped
    assert back <= 4  # 15 where ten values of the smaller arm make a block


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_a_metric_that_never_varies(better: str) -> None:
    """Two versions whose values are all the same are the same, however floats add up (RO4)."""
    story = Story(gates={"metrics": {"score": {"better": better}}}, hold_s=1e4)
    sums, counts = {MAIN: 0.0, NEW: 0.0}, {MAIN: 0, NEW: 0}
    for second in range(200):
        for tag, values in ((MAIN, 90 + second % 4), (NEW, 10)):
            for _ in range(values):
                sums[tag] += 0.1
            counts[tag] += values
        story.counts.set_metrics({MetricKey(tag, "score"): MetricTally(counts[tag], sums[tag]) for tag in sums})
        story.judge()
    assert (story.view.state, story.view.gates["metrics.score"].e) == ("running", 1.0)


def test_a_metric_of_impossible_values() -> None:
    """Values so large that nothing can be made of their difference leave the gate as it was (RO4)."""
    story = Story(gates={"metrics": {"score": {"better": "higher"}}}, hold_s=1000)
    for second in range(1, 40):
        sums = {MetricKey(MAIN, "score"): 1e300 * second, MetricKey(NEW, "score"): -1e300 * second}
        story.counts.set_metrics({key: MetricTally(200 * second, total) for key, total in sums.items()})
        story.pass_seconds(1)
    assert (story.view.state, story.view.gates["metrics.score"].e) == ("running", 1.0)
