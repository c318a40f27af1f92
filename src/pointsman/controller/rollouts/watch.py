"""The shell of rollouts: each reading of the evidence is judged, and what comes of it is committed.

reading -> judge each rollout that has not ended -> one commit for all -> the usual table

Where the store cannot write, the weights stay and judging goes on in memory, so that the verdict is tried again with
each reading (RO11). A controller that comes next reads what was stored, and counts the rest of the evidence again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import msgspec

from pointsman.controller.observed import Observed
from pointsman.controller.rollouts.changes import settled
from pointsman.controller.rollouts.judge import judge
from pointsman.controller.state import Desired, Rollout
from pointsman.controller.store import StoreError
from pointsman.controller.views import UNHEALTHY, state_of
from pointsman.model.evidence import Evidence

log = logging.getLogger(__name__)

Update = Callable[[Callable[[Desired, str], Desired]], Awaitable[None]]
"""Commits what a function makes of the desired state; see ``Controller.update``."""


class RolloutWatch:
    """Judges all rollouts of an instance.

    Args:
        instance: id of the instance.
        desired: returns the current desired state.
        observed: whose failures tell whether a backend is UNHEALTHY.
        update: commits a change of the desired state.
    """

    def __init__(self, instance: str, *, desired: Callable[[], Desired], observed: Observed, update: Update) -> None:
        self._instance = instance
        self._desired = desired
        self._observed = observed
        self._update = update
        self._task: asyncio.Task[None] | None = None
        self._judged_at: float | None = None
        # What the store has not got yet: the stored rollout, and what was made of it since.
        self._ahead: dict[int, tuple[Rollout, Rollout]] = {}
        self._failed = False
        self._not_judged: frozenset[int] = frozenset()

    def heard(self, evidence: Evidence) -> None:
        """Judge by a reading of the evidence. A reading that comes while the last one is judged is left out: the next
        one has it, too."""
        if not any(rollout.is_live for rollout in self._desired().rollouts.values()):
            self._judged_at = None
            self._ahead.clear()
        elif self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._judge(evidence))
            self._task.add_done_callback(self._ended)

    async def aclose(self) -> None:
        """Return when what was begun is done."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _judge(self, evidence: Evidence) -> None:
        # The clock of another controller may have begun elsewhere: time counts from the first reading on.
        now = asyncio.get_running_loop().time()
        elapsed_s = 0.0 if self._judged_at is None else now - self._judged_at
        self._judged_at = now
        news: list[str] = []
        try:
            await self._update(lambda state, time: self._decide(state, time, evidence, elapsed_s, news))
        except StoreError as error:
            if not self._failed:
                log.error("rollouts stay at their weights until the store can be written: %s", error)
            self._failed = True
        else:
            self._ahead.clear()
            self._failed = False
            for line in news:
                log.info("%s", line)

    def _decide(self, state: Desired, time: str, evidence: Evidence, elapsed_s: float, news: list[str]) -> Desired:
        ahead: dict[int, tuple[Rollout, Rollout]] = {}
        not_judged: set[int] = set()
        new = state
        for stored in state.rollouts.values():
            if not stored.is_live:
                continue
            base, known = self._ahead.get(stored.id, (stored, stored))
            known = known if base is stored else stored
            try:
                judged, verdict = judge(known, evidence, elapsed_s, self._unhealthy(state, stored.plan.to))
            except Exception:
                # A bug, or a number that user code has made up. Its weight stays, and it is tried again with the next
                # reading; the other rollouts are none of its business.
                not_judged.add(stored.id)
                if stored.id not in self._not_judged:
                    log.critical("rollout %d cannot be judged, and stays where it is", stored.id, exc_info=True)
                continue
            if judged.counted is not None and judged.instance != self._instance:
                judged = msgspec.structs.replace(judged, instance=self._instance)
            ahead[stored.id] = (stored, judged)
            if verdict.state != stored.state or verdict.advances:
                what = verdict.reason or f"step {stored.step + 1} is over"
                news.append(f"rollout {stored.id} of endpoint {stored.plan.endpoint!r}: {what}")
            elif judged == stored and verdict.reason == stored.reason:
                continue
            new = settled(new, judged, verdict, time)
        self._ahead, self._not_judged = ahead, frozenset(not_judged)
        return new

    def _unhealthy(self, state: Desired, tag: str) -> str:
        spec = state.backends.get(tag)
        if spec is None or state_of(state, self._observed, spec)[0] != UNHEALTHY:
            return ""
        return f"backend {tag!r} is {UNHEALTHY}: {self._observed.failures[tag].words:.200}"

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and task.exception() is not None:
            # A bug. Weights stay as they are, and the next reading is judged again: the rest of the controller works.
            log.critical("rollouts could not be judged", exc_info=task.exception())
