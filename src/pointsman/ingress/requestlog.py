"""Lines about single requests: a sample of all of them, and those that took long, with where their time went."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Any

from pointsman.routing.call import Call
from pointsman.telemetry.logs import FIELDS, WarningBudget, escaped

access = logging.getLogger("access")
slow = logging.getLogger("pointsman.slow")


class RequestLog:
    """Decides what is said of a request that is over.

    Args:
        share: of the requests that get a line, from 0 to 1.
        slow_s: requests that took at least so many seconds get a line, up to 10 a second; None for none.
        draw: gives numbers uniform in [0, 1).
    """

    def __init__(self, share: float, slow_s: float | None, *, draw: Callable[[], float] = random.random) -> None:
        self._share = share
        self._slow_s = slow_s
        self._draw = draw
        self._budget = WarningBudget()

    @property
    def is_on(self) -> bool:
        return self._share > 0 or self._slow_s is not None

    def over(
        self, scope: dict[str, Any], call: Call | None, *, began: float, status: int, outcome: str, request_id: str
    ) -> None:
        """A request is over; ``began`` is in the time of ``time.monotonic``."""
        now = time.monotonic()
        seconds = now - began
        is_slow = self._slow_s is not None and seconds >= self._slow_s and self._may_warn(now)
        if not is_slow and not (self._share and self._draw() < self._share):
            return
        target: bytes = scope.get("raw_path") or b""
        if scope.get("query_string"):
            target += b"?" + scope["query_string"]
        fields = {
            "request_id": request_id,
            "method": escaped(scope["method"].encode()),
            "target": escaped(target),
            "status": status,
            "outcome": outcome,
            "seconds": round(seconds, 6),
            "endpoint": call.endpoint if call is not None else "",
            "backend": call.backend if call is not None else "",
        }
        parts = breakdown_ms(call, began, seconds)
        said = "%s %s -> %d %s in %.1f ms%s"
        where = " (" + ", ".join(f"{name} {ms:.1f}" for name, ms in parts.items()) + ")" if parts else ""
        arguments = (fields["method"], fields["target"], status, outcome, 1000 * seconds, where)
        logger, level = (slow, logging.WARNING) if is_slow else (access, logging.INFO)
        logger.log(level, said, *arguments, extra={FIELDS: {**fields, "breakdown_ms": parts}})

    def _may_warn(self, now: float) -> bool:
        held_back = self._budget.take("slow", now)
        if held_back:
            slow.warning("%d more lines about slow requests were held back", held_back)
        return held_back is not None


def breakdown_ms(call: Call | None, began: float, seconds: float) -> dict[str, float]:
    """Where a request's time went, as far as that is known: waiting in the router for a replica, waiting in the replica
    for its turn or batch, in user code, and on the way, which is the rest."""
    if call is None or not call.sent_at:
        return {}
    parts = {
        "queue": 1000 * max(0.0, call.sent_at - began),
        "batch wait": call.waited_us / 1000,
        "processing": call.ran_us / 1000,
    }
    parts["network"] = max(0.0, 1000 * seconds - sum(parts.values()))
    return {name: round(ms, 3) for name, ms in parts.items()}
