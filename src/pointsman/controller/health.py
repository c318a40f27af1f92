"""Finds unhealthy replicas: sends requests to their health threads and judges the answers, or their absence.

    HealthWatch: every period -> request -> answer -> LastHealth -> examine -> Unhealthy -> the controller replaces it

A replica is never replaced because of a call that is within its time limit, even if that call blocks the whole process
(decision 0018). Silence counts only if the process is stopped by a signal or no running call explains it.
:func:`examine` is pure; the watch keeps the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from pointsman.controller.observed import Observed
from pointsman.controller.orders import Peers
from pointsman.controller.replicas import Phase, Replica, Unhealthy
from pointsman.controller.state import Desired
from pointsman.model import BackendConfigSpec, Reason
from pointsman.wire.messages import HealthAnswer

SHORTEST_TICK_S = 0.1
LONGEST_TICK_S = 1.0


class Circumstances(NamedTuple):
    """What may explain a replica's silence.

    Attributes:
        stopped: the process is known to be stopped by a signal.
        has_started: the replica's shared memory shows a call that has started and not ended.
        declared_s: the longest limit that a call may have.
    """

    stopped: bool
    has_started: bool
    declared_s: float


def examine(replica: Replica, config: BackendConfigSpec, now: float, about: Callable[[], Circumstances]) -> str:
    """Judge a replica that has calls; sets its ``unhealthy`` if it must be replaced.

    Args:
        about: returns the circumstances; called only if the replica is silent, since it reads files.

    Returns:
        A warning for the status: why the replica must be replaced, or what is unusual; empty if all is well.
    """
    last, answer = replica.health, replica.health.answer or HealthAnswer(0)
    grace_s = config.health_check_failures * config.health_check_timeout_s
    silent_s = now - last.answered_at
    if silent_s > config.health_check_period_s + grace_s:
        why = about()
        # The replica's last answer says how long its calls may take. A call that started after that answer is known by
        # shared memory alone; it gets the longest limit of any call.
        patience_s = max(answer.patience_s or 0.0, why.declared_s if why.has_started else 0.0)
        if not why.stopped and silent_s <= patience_s + grace_s and patience_s:
            return f"busy, not responding for {silent_s:.0f} s, with calls that may take {patience_s:.0f} s"
        cause = "its process is stopped" if why.stopped else "nothing that it runs may take so long"
        replica.unhealthy = Unhealthy(
            Reason.UNRESPONSIVE, f"no answer to health questions for {silent_s:.1f} s, and {cause}", kill=True
        )
        return replica.unhealthy.text
    if answer.blocked_s >= grace_s:
        excused_s = None if answer.patience_s is None else answer.patience_s + grace_s
        if excused_s is not None and excused_s > 0:
            return f"busy, its event loop has been blocked for {answer.blocked_s:.0f} s"
        text = f"its event loop has been blocked for {answer.blocked_s:.1f} s, longer than any call in it may take"
        replica.unhealthy = Unhealthy(Reason.UNRESPONSIVE, text, kill=True)
    elif answer.overdue_s >= grace_s:
        text = f"sync code has run {answer.overdue_s:.1f} s longer than its callers wait"
        replica.unhealthy = Unhealthy(Reason.UNRESPONSIVE, text, kill=True)
    else:
        return _examine_check(replica, config, answer)
    return replica.unhealthy.text


def _examine_check(replica: Replica, config: BackendConfigSpec, answer: HealthAnswer) -> str:
    hanging = int(answer.check_running_s / config.health_check_timeout_s)
    failures = answer.check_failures + hanging
    if not failures:
        return ""
    text = f"check_health has run for {answer.check_running_s:.1f} s" if hanging else answer.check_text
    error = "" if hanging else answer.check_error
    if failures < config.health_check_failures:
        return f"check_health failed {failures} times: {text}"
    # Its calls may still succeed, so it drains as in a scale-down instead of being killed.
    found = Unhealthy(Reason.HEALTH_CHECK_FAILED, text, error=error, traceback=answer.check_traceback, kill=False)
    replica.unhealthy = found
    return text


class HealthWatch:
    """Requests the health of every serving replica, and reports unhealthy ones.

    Args:
        observed: has the replicas.
        desired: returns the current desired state.
        peers: sends the requests.
        circumstances: returns what may explain a replica's silence.
        on_unhealthy: called once for each replica that is found to be unhealthy.
    """

    def __init__(
        self,
        observed: Observed,
        *,
        desired: Callable[[], Desired],
        peers: Peers,
        circumstances: Callable[[Replica], Circumstances],
        on_unhealthy: Callable[[Replica], None],
    ) -> None:
        self._observed = observed
        self._desired = desired
        self._peers = peers
        self._circumstances = circumstances
        self._on_unhealthy = on_unhealthy
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._ticked = 0.0

    def on_answer(self, number: int, answer: HealthAnswer) -> None:
        """Record a replica's answer."""
        replica = self._observed.replicas.get(number)
        if replica is not None:
            replica.health.answered_at, replica.health.answer = self._loop.time(), answer

    def begin(self) -> None:
        """Start the periodic check if it is not running. It ends by itself when no replica serves."""
        if self._timer is None:
            self._ticked = self._loop.time()
            self._tick()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        now, before = self._loop.time(), self._ticked
        self._ticked = now
        periods = []
        backends = self._desired().backends
        for replica in list(self._observed.replicas.values()):
            spec = backends.get(replica.backend)
            # One that leaves and has no drain limit must be seen to hang.
            watched = replica.phase is Phase.READY or (replica.patient and replica.phase <= Phase.DRAINING)
            if spec is None or not watched or replica.unhealthy or replica.killed:
                continue
            periods.append(spec.config.health_check_period_s)
            if now - before > max(LONGEST_TICK_S, spec.config.health_check_period_s):
                # This process was itself stopped or starved, perhaps with the whole machine: silence proves nothing.
                replica.health.answered_at = max(replica.health.answered_at, now)
            self._look(replica, spec.config, now)
        if periods:
            tick_s = min(LONGEST_TICK_S, max(SHORTEST_TICK_S, min(periods) / 2))
            self._timer = self._loop.call_later(tick_s, self._tick)

    def _look(self, replica: Replica, config: BackendConfigSpec, now: float) -> None:
        replica.health.warning = examine(replica, config, now, lambda: self._circumstances(replica))
        if replica.unhealthy:
            self._on_unhealthy(replica)
        elif now >= replica.health.next_request_at:
            replica.health.next_request_at = now + config.health_check_period_s
            self._peers.request_health(replica.number)
