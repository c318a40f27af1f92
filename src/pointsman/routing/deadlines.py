"""When calls expire: one timer of the loop for all calls whose deadlines are far off and close to each other.

A timer of its own for each call, which nearly always is stopped again before it goes off, was a tenth of what a call
costs. Deadlines that are near keep theirs, so that they are exact.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pointsman.routing.call import Call

FAR_S = 10.0
STEP_S = 0.25
"""Far deadlines go off at the end of the step of so many seconds that they lie in."""


class Deadlines:
    """The deadlines of calls that wait or run.

    Args:
        expire: told of each call whose deadline has passed and that was not disarmed before.
    """

    def __init__(self, expire: Callable[[Call], None]) -> None:
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._steps: dict[int, set[Call]] = {}

    def watch(self, call: Call) -> None:
        """Until ``call.disarm()``."""
        if call.deadline - self._loop.time() <= FAR_S:
            call.timer = self._loop.call_at(call.deadline, self._expire, call)
            return
        number = int(call.deadline / STEP_S) + 1
        step = self._steps.get(number)
        if step is None:
            step = self._steps[number] = set()
            self._loop.call_at(number * STEP_S, self._end_step, number)
        step.add(call)
        call.step = step

    def _end_step(self, number: int) -> None:
        for call in list(self._steps.pop(number)):
            self._expire(call)
