"""Whether a replica is well: questions to its health thread, and what the answers (or their absence) mean.

    HealthWatch: every period -> question -> answer -> LastHealth -> examine -> Unhealthy -> the controller replaces it

A call that is still within its time is no sickness, whatever it does to its process: only a stopped process, or one
that has nothing to excuse it, is given up for its silence. :func:`examine` is pure; the watch only keeps the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from pointsman.controller.observed import Observed, Phase, Replica, Unhealthy
from pointsman.controller.orders import Peers
from pointsman.controller.state import Desired
from pointsman.model import BackendConfigSpec, Reason
from pointsman.wire.messages import HealthAnswer

SHORTEST_TICK_S = 0.1
LONGEST_TICK_S = 1.0


class Circumstances(NamedTuple):
    """What may excuse silence.

    Attributes:
        stopped: the process was stopped by a signal, as far as is known.
        has_started: the replica's note in shared memory says that a call has started and is not over.
        declared_s: how long a call may take.
    """

    stopped: bool
    has_started: bool
    declared_s: float


def examine(replica: Replica, config: BackendConfigSpec, now: float, about: Callable[[], Circumstances]) -> str:
    """Look at what is known of a serving replica and note in it what is wrong.

    Args:
        about: asked only when the replica is silent.

    Returns:
        A remark for the status when something is odd, and not yet a reason to replace the replica.
    """
    last, answer = replica.health, replica.health.answer or HealthAnswer(0)
    grace_s = config.health_check_failures * config.health_check_timeout_s
    silent_s = now - last.answered_at
    if silent_s > config.health_check_period_s + grace_s:
        why = about()
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
    # What it runs may still end well, so it leaves as in a scale-down instead of being killed.
    found = Unhealthy(Reason.HEALTH_CHECK_FAILED, text, error=error, traceback=answer.check_traceback, kill=False)
    replica.unhealthy = found
    return text


class HealthWatch:
    """Asks every serving replica how it is, and tells when one is found to be unhealthy.

    Args:
        observed: whose replicas are asked.
        desired: gives the present desired state.
        asks: sends a question.
        circumstances: what may excuse a replica's silence.
        on_unhealthy: told of each replica that was found to be unhealthy, once.
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
        """A replica has answered."""
        replica = self._observed.replicas.get(number)
        if replica is not None:
            replica.health.answered_at, replica.health.answer = self._loop.time(), answer

    def begin(self) -> None:
        """There may be somebody to watch."""
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
            if spec is None or replica.phase is not Phase.READY or replica.unhealthy or replica.killed:
                continue
            periods.append(spec.config.health_check_period_s)
            if now - before > max(LONGEST_TICK_S, spec.config.health_check_period_s):
                # This process was stopped itself, perhaps with all others: nobody could have answered.
                replica.health.answered_at = max(replica.health.answered_at, now)
            self._look(replica, spec.config, now)
        if periods:
            tick_s = min(LONGEST_TICK_S, max(SHORTEST_TICK_S, min(periods) / 2))
            self._timer = self._loop.call_later(tick_s, self._tick)

    def _look(self, replica: Replica, config: BackendConfigSpec, now: float) -> None:
        replica.health.warning = examine(replica, config, now, lambda: self._circumstances(replica))
        if replica.unhealthy:
            self._on_unhealthy(replica)
        elif now >= replica.health.ask_at:
            replica.health.ask_at = now + config.health_check_period_s
            self._peers.request_health(replica.number)
