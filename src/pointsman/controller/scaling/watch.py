"""The shell of autoscaling: looks each half second at each backend whose number of replicas follows its calls, and has
what is decided stored.

    counts of routers -> look -> ``policy.scaling.decide`` -> Scale -> one commit for all -> the usual plan

Nothing of it is a change that users wait for, so the state keeps its version. Where the store cannot write, the numbers
stay, and each look tries again. A controller that comes next has the numbers, holds and learned times of starts; what
was seen of calls it begins to see anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import NamedTuple, Protocol

import msgspec

from pointsman.controller.acting import time_of_day
from pointsman.controller.observed import Observed
from pointsman.controller.scaling import looking
from pointsman.controller.scaling.following import decided, follows_calls, is_held, noted
from pointsman.controller.scaling.found import Looked
from pointsman.controller.scaling.idle import keeps_one
from pointsman.controller.scaling.looking import NO_STEP, Rate, Step
from pointsman.controller.scaling.room import lacking
from pointsman.controller.scaling.sleeping import note_uses, woken_and_unloaded
from pointsman.controller.scaling.words import news
from pointsman.controller.state import Desired
from pointsman.controller.store import StoreError
from pointsman.model import BackendSpec, Resources, Scale
from pointsman.model.evidence import Evidence
from pointsman.model.scaling import TRAFFIC, Decision, Demand, ScalingPolicy
from pointsman.policy.scaling.context import PolicyContext, Said
from pointsman.policy.scaling.decide import LOOK_S, decide
from pointsman.policy.scaling.seen import Verdict

log = logging.getLogger(__name__)

Needs = list[tuple[Resources, int]]
"""Resources of a replica, and how many of them lack room."""
Update = Callable[[Callable[[Desired, str], Desired]], Awaitable[None]]
"""Commits what a function makes of the desired state; see ``Controller.update``."""


class Counts(Protocol):
    """What routers have counted of calls; see :class:`~pointsman.controller.scaling.demand.Collector`."""

    on_waiting: Callable[[list[str]], None]

    def demand_of(self, tag: str) -> Demand: ...

    def waiting_heard(self, tag: str) -> float: ...

    def is_silent(self, tag: str) -> bool: ...

    def keep(self, tags: Collection[str]) -> None: ...


class Metrics(Protocol):
    """See :class:`~pointsman.controller.scaling.metrics.ScalingMetrics`."""

    def show(self, desired: Desired, observed: Observed) -> None: ...

    def decided(self, backend: str, decision: Decision) -> None: ...

    def started(self, backend: str, seconds: float) -> None: ...


class OwnRules(Protocol):
    """Users' own rules; see :class:`~pointsman.controller.scaling.policies.Policies`."""

    def said(self, tag: str) -> Said: ...

    def ask(self, tag: str, policy: ScalingPolicy, version: int, context: PolicyContext) -> None: ...

    def keep(self, tags: Collection[str]) -> None: ...

    def close(self) -> None: ...


class Change(NamedTuple):
    """What a look makes of a backend: what was remembered of its number, and what shall be. It holds for this ``spec``
    only; ``verdict`` and ``shown`` are those of the look before."""

    spec: BackendSpec
    before: Scale | None
    after: Scale
    verdict: Verdict | None
    shown: int | None


class ScalingWatch:
    """Looks at all backends of an instance. Needs a running loop.

    Args:
        desired: returns the current desired state.
        observed: has replicas, and is told what each look has found.
        counts: of calls.
        update: commits a change of the desired state.
        earlier: returns a reading of the evidence, so many seconds old.
        metrics: is told of all; None where nothing is recorded.
        policies: asks users' own rules; None for none.
        request: called with what no node has room for, whenever that is something else.
        clock: returns the time of day.
        instance: the name of the instance.
    """

    def __init__(
        self,
        *,
        desired: Callable[[], Desired],
        observed: Observed,
        counts: Counts,
        update: Update,
        earlier: Callable[[float], Evidence] = lambda age_s: Evidence(at=0.0),
        metrics: Metrics | None = None,
        policies: OwnRules | None = None,
        request: Callable[[Needs], object] = lambda needs: None,
        clock: Callable[[], str] = time_of_day,
        instance: str = "",
    ) -> None:
        self._desired = desired
        self._observed = observed
        self._counts = counts
        self._update = update
        self._earlier = earlier
        self._metrics = metrics
        self._policies = policies
        self._request = request
        self._clock = clock
        self._instance = instance
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._p99_s: dict[str, float] = {}
        self._last = desired()
        self._told = self._last.scales
        self._needs: Needs = []
        self._broken: dict[str, str] = {}
        self._failed = self._again = self._closed = False

    def start(self) -> None:
        """Begin to look."""
        self._counts.on_waiting = self.heard_waiting
        self._tick()

    async def aclose(self) -> None:
        """Return when what was begun is done. Before the controller ends, which stores what is decided."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        if self._policies is not None:
            self._policies.close()

    def heard(self, evidence: Evidence) -> None:
        """Take in a reading of what was counted of latencies."""
        autoscaled = {tag: spec.config.autoscaling for tag, spec in self._desired().backends.items()}
        tags = [tag for tag, one in autoscaled.items() if one is not None and one.target_latency_ms is not None]
        self._p99_s = looking.latencies_of(evidence, self._earlier(looking.OVER_S), tags) if tags else {}

    def heard_waiting(self, tags: list[str]) -> None:
        """Calls wait in a router: look at once at backends that have no replica to come."""
        desired = self._desired()
        if any(tag in desired.backends and not desired.wanted(tag) for tag in tags):
            self._again = self._task is not None
            self.look()

    def look(self) -> None:
        """Look at all backends now, unless the last look is still being stored: then the next one sees it all."""
        if self._task is None and not self._closed:
            self._task = self._loop.create_task(self._look())
            self._task.add_done_callback(self._ended)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(LOOK_S, self._tick)
        self.look()

    async def _look(self) -> None:
        desired, now, time = self._desired(), self._loop.time(), self._clock()
        started, self._observed.started = self._observed.started, []
        for tag, seconds in started:
            if self._metrics is not None:
                self._metrics.started(tag, seconds)
        counted = looking.counted(desired)
        self._counts.keep(counted)
        if self._policies is not None:
            self._policies.keep(looking.own_policies(desired))
        for tag in self._observed.looked.keys() - counted:
            del self._observed.looked[tag]
        for tag in counted:
            self._observed.looked.setdefault(tag, Looked()).count(now, self._counts.demand_of(tag))
        note_uses(desired, self._observed, now, lambda tag: self._observed.looked[tag].demand)
        rates = {tag: Rate(*looked.rate()) for tag, looked in self._observed.looked.items()}
        steps, self._last = looking.steps(self._last, desired, rates), desired
        known = {tag: (looked.verdict, looked.shown) for tag, looked in self._observed.looked.items()}
        scales = dict(desired.scales)
        for tag in desired.scales.keys() | {tag for tag in counted if follows_calls(desired.backends[tag].config)}:
            took_s = [seconds for one, seconds in started if one == tag]
            try:
                scale = self._after_look(desired, tag, took_s, steps.get(tag, NO_STEP), now, time)
            except Exception as error:  # noqa: BLE001 - see below
                # A bug. Its number stays as it is until the rule begins anew, and those of others follow their calls.
                self._broke(tag, error)
            else:
                if scale is not None:
                    scales[tag] = scale
        new = msgspec.structs.replace(desired, scales=scales)
        new = woken_and_unloaded(
            new,
            self._observed,
            now,
            time,
            demand_of=lambda tag: self._observed.looked[tag].demand,
            waiting_heard=self._counts.waiting_heard,
            is_silent=self._counts.is_silent,
            needs={tag: looked.verdict.wanted for tag, looked in self._observed.looked.items() if looked.verdict},
        )
        changes = {
            tag: Change(desired.backends[tag], desired.scales.get(tag), scale, *known.get(tag, (None, None)))
            for tag, scale in new.scales.items()
            if scale is not desired.scales.get(tag)
        }
        if changes:
            await self._store(changes)
        self._tell()
        if (needs := lacking(self._desired(), self._observed)) != self._needs:
            self._needs = needs
            self._request(needs)

    def _after_look(
        self, desired: Desired, tag: str, started_s: Iterable[float], step: Step, now: float, time: str
    ) -> Scale | None:
        """What is remembered of a backend's number after a look; None if nothing is different."""
        before = desired.scales.get(tag) or Scale(desired.wanted(tag))
        scale, start_s = before, looking.learned(before, started_s)
        if start_s != scale.start_s:
            scale = msgspec.structs.replace(scale, start_s=start_s)
        if scale.hold is not None and not is_held(scale, time):
            scale = looking.let_go(scale, desired.backends[tag], self._observed.default_max, time)
        scale = self._ruled(desired.backends[tag], scale, step, now, time)
        return scale if scale is not before else None

    def _ruled(self, spec: BackendSpec, scale: Scale, step: Step, now: float, time: str) -> Scale:
        """What is remembered of a backend's number once the rule has been asked, if there is one."""
        autoscaling, looked = spec.config.autoscaling, self._observed.looked.get(spec.tag)
        if looked is None or (autoscaling is None and not scale.unloaded):
            return scale
        if scale.unloaded:
            looked.verdict, number = None, spec.config.num_replicas
            if autoscaling is not None and (looked.demand.waiting or step.gains):
                # What these calls need, as if there had never been others.
                number = max(1, self._decide(spec, scale, looked, 0, step, now, time).wanted)
            if not step.gains:
                return scale  # calls that wait wake it
            if (use := self._observed.uses.get(spec.tag)) is not None:
                use.since = now  # its calls are still to come
            asleep = msgspec.structs.replace(scale, unloaded=False, wanted=0)
            return decided(asleep, number, TRAFFIC, f"a traffic policy brings {step.gains:.3g} calls at a time", time)
        assert autoscaling is not None
        if not autoscaling.dry_run:
            looked.shown = None
        wanted = scale.wanted if looked.shown is None else looked.shown
        if step is NO_STEP and looking.sleeps(autoscaling, wanted, looked):
            if looked.verdict is not None and looked.verdict.demand:
                looked.verdict = msgspec.structs.replace(looked.verdict, demand=0.0, arrivals_per_second=0.0)
            return scale
        verdict = self._decide(spec, scale, looked, wanted, step, now, time)
        if scale.hold is not None:
            return scale
        if autoscaling.dry_run:
            looked.shown = verdict.wanted
            return noted(scale, wanted, verdict.wanted, verdict.reason, f"{verdict.text} (a dry run)", time)
        if not verdict.wanted and keeps_one(spec.tag, self._desired(), self._observed, now):
            return scale
        return decided(scale, verdict.wanted, verdict.reason, verdict.text, time)

    def _decide(
        self, spec: BackendSpec, scale: Scale, looked: Looked, wanted: int, step: Step, now: float, time: str
    ) -> Verdict:
        autoscaling = spec.config.autoscaling
        assert autoscaling is not None
        said = self._policies.said(spec.tag) if self._policies is not None else Said()
        seen = looking.seen_of(
            spec,
            scale,
            self._observed,
            demand=looked.demand,
            wanted=wanted,
            silent=self._counts.is_silent(spec.tag),
            p99_s=self._p99_s.get(spec.tag),
            step=step,
            policy_wants=said.wants,
        )
        if scale.hold is not None:  # nothing else is possible, and nothing is remembered as needed or not
            seen = msgspec.structs.replace(seen, min_replicas=wanted, max_replicas=wanted)
        memory = looked.verdict.memory if looked.verdict is not None else None
        verdict = decide(seen, autoscaling, now, memory)
        if autoscaling.policy is not None and self._policies is not None:
            about = looking.told(spec, seen, verdict, self._observed, now, time, instance=self._instance)
            self._policies.ask(spec.tag, autoscaling.policy, spec.config_version, about)
        if said.remark:
            verdict = msgspec.structs.replace(verdict, remark=said.remark)
        looked.verdict = verdict
        return verdict

    def _broke(self, tag: str, error: Exception) -> None:
        """Have the rule forget what it keeps in mind of a backend, which may be what it stumbles over."""
        text = f"the rule has failed, and begins anew: {error!r}"
        looked = self._observed.looked.get(tag)
        if looked is not None:
            looked.verdict = None
        if self._broken.get(tag) != text:
            log.critical("backend %r: %s", tag, text, exc_info=error)
        self._broken[tag] = text

    async def _store(self, changes: dict[str, Change]) -> None:
        try:
            await self._update(lambda state, time: _changed(state, changes))
        except StoreError as error:
            if not self._failed:
                log.error("numbers of replicas stay as they are until the store can be written: %s", error)
            self._failed = True
            for tag, change in changes.items():  # it was not decided, and nothing must be remembered of that
                if (looked := self._observed.looked.get(tag)) is not None:
                    looked.verdict, looked.shown = change.verdict, change.shown
        else:
            self._failed = False

    def _tell(self) -> None:
        """Tell of all decisions since the last time, whoever took them."""
        scales = self._desired().scales
        for tag, decision in news(self._told, scales):
            log.info("backend %r: %d -> %d replicas because %s", tag, decision.before, decision.after, decision.text)
            if self._metrics is not None:
                self._metrics.decided(tag, decision)
        self._told = scales
        if self._metrics is not None:
            self._metrics.show(self._desired(), self._observed)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        again, self._again = self._again, False
        if again:
            self.look()
        if not task.cancelled() and task.exception() is not None:
            # A bug. Numbers stay as they are, and the next look is tried again: the rest of the controller works.
            log.critical("the calls for backends could not be looked at", exc_info=task.exception())


def _changed(state: Desired, changes: dict[str, Change]) -> Desired:
    """The state with what a look has made of it. What was changed by somebody else since the look stays."""
    scales = dict(state.scales)
    for tag, change in changes.items():
        if state.backends.get(tag) is change.spec and state.scales.get(tag) is change.before:
            scales[tag] = change.after
    return msgspec.structs.replace(state, scales=scales) if scales != state.scales else state
