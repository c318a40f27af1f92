"""Callers that wait for the end of an apply, or of a rollout."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pointsman.controller.applying import view_of
from pointsman.controller.replicas import Phase
from pointsman.controller.rollouts.words import so_far
from pointsman.controller.rollouts.words import view_of as view_of_rollout
from pointsman.controller.state import Operation, Rollout
from pointsman.controller.waiters import TABLES_S, Situation, TableWait, too_late
from pointsman.model.rollout import INCONCLUSIVE, RolloutView
from pointsman.wire.apply import DONE, RUNNING, TAKEN_BACK, OperationView
from pointsman.wire.commands import Progress


class OperationWaiter:
    """One caller who waits until an apply has ended, and what it has made is in force (CF6).

    Args:
        operation: as it was when the caller asked.
        own_routers: numbers of the caller's own routers, which must have the new table too.
        progress: called with the number of ready replicas of each of its backends, whenever that changes.
    """

    def __init__(self, operation: Operation, own_routers: frozenset[int], progress: Callable[[Progress], None]) -> None:
        self.future: asyncio.Future[OperationView] = asyncio.get_running_loop().create_future()
        self._operation = operation
        self._tables = TableWait(own_routers)
        self._progress = progress
        self._timer: asyncio.TimerHandle | None = None
        self._reported: dict[str, tuple[int, int]] = {}

    def check(self, situation: Situation) -> None:
        """Resolve ``future`` if it has ended and is in force."""
        if self.future.done():
            return
        # One that has ended may be forgotten while routers are waited for.
        operation = self._operation = situation.desired.operations.get(self._operation.id, self._operation)
        if operation.state != TAKEN_BACK:
            self._report(operation, situation)
        if operation.state == RUNNING:
            return
        if self._timer is None:  # models may load for minutes, so the limit is for what comes after
            self._timer = asyncio.get_running_loop().call_later(TABLES_S, self._is_late)
        done = operation.state == DONE
        if self._tables.is_over(situation, connects=done) and not (done and _some_take_calls(operation, situation)):
            self.future.set_result(view_of(operation, situation.desired.version))

    def end(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _is_late(self) -> None:
        if not self.future.done():
            self.future.set_exception(too_late(TABLES_S))

    def _report(self, operation: Operation, situation: Situation) -> None:
        for tag in operation.tags:
            spec = situation.desired.backends.get(tag)
            if spec is None:
                continue
            mine = situation.observed.of(tag)
            ready = sum(replica.phase is Phase.READY and replica.version == spec.version for replica in mine)
            state = (ready, situation.desired.needed(tag))
            if self._reported.get(tag) != state:
                self._reported[tag] = state
                self._progress(Progress(tag, *state))


class RolloutWaiter:
    """One caller who waits until a rollout has ended and its traffic is in force, or it is inconclusive (RO1).

    Args:
        rollout: as it was when the caller asked.
        own_routers: numbers of the caller's own routers, which must have the new table too.
        timeout_s: the longest wait in seconds; None for no limit.
    """

    def __init__(self, rollout: Rollout, own_routers: frozenset[int], timeout_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        self.future: asyncio.Future[RolloutView] = loop.create_future()
        self._rollout = rollout
        self._tables = TableWait(own_routers)
        self._timeout_s = timeout_s
        self._timer = loop.call_later(timeout_s, self._is_late) if timeout_s is not None else None

    def check(self, situation: Situation) -> None:
        """Resolve ``future`` if it has ended, or is inconclusive."""
        if self.future.done():
            return
        # One that has ended may be forgotten while routers are waited for.
        rollout = self._rollout = situation.desired.rollouts.get(str(self._rollout.id), self._rollout)
        waits = rollout.is_live and rollout.state != INCONCLUSIVE
        if not waits and self._tables.is_over(situation, connects=False):
            self.future.set_result(view_of_rollout(situation.desired, rollout))

    def end(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _is_late(self) -> None:
        rollout = self._rollout
        if not self.future.done():
            what = f"rollout {rollout.id} of endpoint {rollout.plan.endpoint!r} is {rollout.state}"
            self.future.set_exception(
                TimeoutError(f"{what} {so_far(rollout)}, and has not ended within {self._timeout_s:g} s")
            )


def _some_take_calls(operation: Operation, situation: Situation) -> bool:
    """Whether replicas that the apply has made superfluous may still get calls. Those of backends that were changed
    again since do not count."""
    for tag in operation.tags:
        spec = situation.desired.backends.get(tag)
        if spec is not None and max(spec.version, spec.config_version) > operation.version:
            continue
        for replica in situation.observed.of(tag):
            is_old = spec is None or replica.version != spec.version
            if is_old and not replica.killed and replica.phase < Phase.DRAINING:
                return True
    return False
