"""The rules of Ray Serve and of Knative, rebuilt from what their sources do, for comparison. Pure.

Ray Serve 2.60.0: ``serve/autoscaling_policy.py`` (the number, factors, delays), ``serve/_private/autoscaling_state.py``
(how reports of handles become one number), ``serve/_private/router.py`` and ``constants.py`` (when handles sample and
report), ``serve/config.py`` (defaults).

Knative Serving: ``pkg/autoscaler/scaling/autoscaler.go`` at commit 00a4a55cd385 (stable and panic windows, bounds on
the change), ``pkg/reconciler/autoscaling/resources/target.go`` (the target), ``pkg/autoscaler/metrics/collector.go``
(a measurement each second), ``config/core/configmaps/autoscaler.yaml`` at commit 0d68a7be37a8 (defaults).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from pointsman.model.scaling import DEMAND, Demand
from pointsman.policy.scaling.seen import Seen, Verdict


class RayServe:
    """Ray Serve's rule. Handles sample waiting and running calls, and report the samples of the last while now and
    then; the controller takes their mean, and what it wants must last for a delay before it is done.

    Args:
        given: fields of an autoscaling configuration that somebody has set; the others have Ray Serve's defaults.
    """

    every_s = 0.1
    REPORT_S = 10.0
    SAMPLES = 5
    """Samples in a look-back period."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._target = float(given.get("target_ongoing_requests") or 2.0)
        self._look_back_s = float(given.get("look_back_period_s", 30.0))
        self._up_s = float(given.get("upscale_delay_s", 30.0))
        self._down_s = float(given.get("downscale_delay_s", 600.0))
        to_zero_s = given.get("downscale_to_zero_delay_s")
        self._to_zero_s = self._down_s if to_zero_s is None else float(to_zero_s)
        self._up_factor = float(given.get("upscaling_factor", 1.0))
        self._down_factor = float(given.get("downscaling_factor", 1.0))
        self._sample_s = min(self._look_back_s / self.SAMPLES, self.REPORT_S)
        self._next_sample = self._next_report = 0.0
        self._samples: deque[tuple[float, int]] = deque()
        self._reported: list[tuple[float, int]] = []
        self._sampled_ready = 0
        self._aligned = 0.0
        self._reported_aligned = 0.0
        self._direction = 0
        self._since = 0.0

    def look(self, seen: Seen, now: float) -> Verdict:
        """Decide as Ray Serve's controller does ten times a second."""
        self._collect(seen, now)
        total = self._total(now)
        if not seen.ready:
            woken = max(math.ceil(self._up_factor), seen.wanted) if total > 0 else seen.wanted
            return self._verdict(woken, woken, seen, total)
        desired = self._scaled(total / self._target, seen.ready)
        return self._verdict(self._delayed(desired, seen.wanted, now), desired, seen, total)

    def _collect(self, seen: Seen, now: float) -> None:
        """What handles sample and report; with no replica a call is reported at once."""
        calls = seen.demand.waiting + seen.demand.running
        if now + 1e-9 >= self._next_sample:
            self._next_sample += self._sample_s
            self._samples.append((now, calls))
            if seen.ready > self._sampled_ready:
                self._aligned = now
            self._sampled_ready = seen.ready
        if now + 1e-9 >= self._next_report or (not seen.ready and not seen.starting and calls):
            while self._next_report <= now + 1e-9:
                self._next_report += self.REPORT_S
            while self._samples and self._samples[0][0] < now - self._look_back_s:
                self._samples.popleft()
            self._reported = [*self._samples] if seen.ready else [(now, calls)]
            self._reported_aligned = self._aligned

    def _total(self, now: float) -> float:
        """The mean of the reported samples over time, each until the next and the last one until now; from the first
        sample on in which each replica has a part."""
        samples = self._reported
        if not samples:
            return 0.0
        start = max(samples[0][0], self._reported_aligned if self._reported_aligned <= samples[-1][0] else 0.0)
        ends = [time for time, _ in samples[1:]] + [max(now, samples[-1][0] + 1e-3)]
        parts = [(max(end - max(time, start), 0.0), calls) for (time, calls), end in zip(samples, ends, strict=True)]
        return sum(length * calls for length, calls in parts) / sum(length for length, _ in parts)

    def _scaled(self, desired: float, ready: int) -> int:
        """With the factor on the difference; a difference downwards is never rounded away."""
        factor = self._up_factor if desired > ready else self._down_factor
        scaled = math.ceil(ready + factor * (desired - ready) - 1e-9)
        return scaled - 1 if math.ceil(desired) < ready and scaled == ready else scaled

    def _delayed(self, desired: int, wanted: int, now: float) -> int:
        """A change is made when it has been desired, in the same direction, for its delay."""
        direction = (desired > wanted) - (desired < wanted)
        if not direction:
            self._direction = 0
            return wanted
        if direction != self._direction:
            self._direction, self._since = direction, now
        if direction < 0 and wanted > 1:
            desired = max(1, desired)
        delay_s = self._up_s if direction > 0 else self._to_zero_s if wanted == 1 else self._down_s
        if now - self._since + 1e-6 < delay_s:
            return wanted
        self._direction = 0
        return max(0, desired)

    def _verdict(self, wanted: int, desired: int, seen: Seen, total: float) -> Verdict:
        bounded = min(max(wanted, seen.min_replicas), seen.max_replicas)
        return Verdict(bounded, desired, DEMAND, f"demand {total:.3g} at target {self._target:g}", None, total)


class Knative:
    """Knative's rule: the mean over a stable window, and, when the last seconds need twice as many replicas as are
    ready, over a short panic window, in which nothing falls.

    Args:
        given: fields of an autoscaling configuration that somebody has set: ``look_back_period_s`` is the stable window
            here, ``downscale_delay_s`` the scale-down delay; the others have Knative's defaults.
        slots: calls that a replica runs at once, Knative's container concurrency.
        ready: replicas at the beginning: with more than one it begins in panic.
    """

    every_s = 2.0
    UTILISATION = 0.7
    PANIC_SHARE = 0.1
    PANIC_THRESHOLD = 2.0
    MAX_UP = 1000.0
    MAX_DOWN = 2.0

    def __init__(self, given: Mapping[str, Any], slots: int, ready: int) -> None:
        self._target = float(given.get("target_ongoing_requests") or self.UTILISATION * slots)
        self._stable_s = float(given.get("look_back_period_s", 60.0))
        self._panic_s = max(1.0, round(self._stable_s * self.PANIC_SHARE))
        self._down_s = float(given.get("downscale_delay_s", 0.0))
        self._counted: deque[tuple[float, Demand]] = deque()
        self._panic_since = 0.0 if ready > 1 else None
        self._panic_most = ready
        self._delayed: deque[tuple[float, int]] = deque()

    def look(self, seen: Seen, now: float) -> Verdict:
        """Decide as Knative's autoscaler does every two seconds."""
        self._counted.append((now, seen.demand))
        while len(self._counted) > 2 and self._counted[1][0] <= now - self._stable_s:
            self._counted.popleft()
        if len(self._counted) < 2 and not seen.demand.waiting:
            return Verdict(seen.wanted, seen.wanted, DEMAND, "nothing was measured yet", None)
        stable, panic = self._mean(self._stable_s, now), self._mean(self._panic_s, now)
        desired = self._desired(stable, panic, max(1, seen.ready), now)
        desired = self._held(desired, now)
        wanted = min(max(desired, seen.min_replicas), seen.max_replicas)
        mode = "stable" if self._panic_since is None else "panic"
        text = f"demand {stable:.3g} over {self._stable_s:g} s, {panic:.3g} over {self._panic_s:g} s, {mode}"
        return Verdict(wanted, desired, DEMAND, f"{text}, at target {self._target:g}", None, stable)

    def _desired(self, stable: float, panic: float, ready: int, now: float) -> int:
        most, least = math.ceil(self.MAX_UP * ready), ready // self.MAX_DOWN
        over = math.ceil(panic / self._target - 1e-9)
        calm = int(min(max(math.ceil(stable / self._target - 1e-9), least), most))
        hasty = int(min(max(over, least), most))
        if over / ready >= self.PANIC_THRESHOLD:
            self._panic_since = now
        elif self._panic_since is not None and self._panic_since + self._stable_s < now:
            self._panic_since, self._panic_most = None, 0
        if self._panic_since is None:
            return calm
        self._panic_most = max(self._panic_most, calm, hasty)
        return self._panic_most

    def _held(self, desired: int, now: float) -> int:
        """The most that was desired within the scale-down delay."""
        self._delayed.append((now, desired))
        while self._delayed[0][0] < now - self._down_s:
            self._delayed.popleft()
        return max(count for _, count in self._delayed)

    def _mean(self, window_s: float, now: float) -> float:
        """Calls on average over a window, or since the beginning where that is shorter."""
        last = self._counted[-1][1]
        if len(self._counted) < 2:
            return float(last.waiting + last.running)
        for time, counted in reversed(self._counted):
            first = (time, counted)
            if time <= now - window_s + 1e-9:
                break
        return (last.call_s - first[1].call_s) / (now - first[0])
