"""The end of an instance on this machine: ingresses finish, then replicas, then controller and console. Called by the
supervisor, whose processes these are."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection

from pointsman.engine.process import HANDED_OVER, Child

#: How long controller and console may take to exit at the end of the instance.
EXIT_GRACE_S = 1.5
LAST = "controller"
#: The roles of processes that are told together. A page shows the drain, so that the console goes with the last.
TOGETHER = {LAST: (LAST, "console")}


class Ending:
    """Ends the processes of an instance in order; those that do not exit in time are killed.

    Args:
        children: returns the processes that live.
        after: calls a function after so many seconds; also what waits for processes returns then.
    """

    def __init__(
        self, children: Callable[[], Collection[Child]], after: Callable[[float, Callable[[], None]], None]
    ) -> None:
        self._children = children
        self._after = after
        self._phases: list[tuple[str, float]] | None = None
        self._phase_ends = 0.0
        self._hurries = self._handed_over = False

    @property
    def has_begun(self) -> bool:
        return self._phases is not None

    @property
    def is_over(self) -> bool:
        """Whether all were told to exit, and had their time."""
        return self._phases is not None and not self._phases

    def begin(self, drain_s: float, *, delay_s: float = 0.0, handed_over: bool = False) -> None:
        """End the processes in order, once ingresses have accepted requests for ``delay_s`` seconds more. A second call
        with less time shortens the drain that is running. If the instance was ``handed_over``, its sockets are served
        by others, and ingresses answer what still comes on their connections."""
        if self._phases is None:
            self._hurries, self._handed_over = not delay_s, handed_over
            self._phases = [("ingress", delay_s + drain_s), ("replica", drain_s), (LAST, EXIT_GRACE_S)]
            self._next_phase()
        elif self._phases and self._phases[0][0] != LAST:
            *draining, last = self._phases
            self._phases = [*((role, min(limit_s, drain_s)) for role, limit_s in draining), last]
            self._phase_ends = min(self._phase_ends, time.monotonic() + drain_s)
            self._after(drain_s, lambda: None)  # wakes the loop when the new limit is over
            self._hurries = True
            if self._phases[0][0] == "ingress":
                self._signal("ingress")

    def advance(self) -> None:
        """Go on as far as processes have exited or had their time."""
        while self._phases:
            waiting = self._of(self._phases[0][0])
            if waiting and time.monotonic() < self._phase_ends:
                return
            for child in waiting:
                child.signal(signal.SIGKILL)
            self._phases.pop(0)
            if self._phases:
                self._next_phase()

    def hurry(self) -> None:
        """Kill what still drains."""
        for child in self._children():
            child.signal(signal.SIGKILL)

    def _next_phase(self) -> None:
        assert self._phases
        role, limit_s = self._phases[0]
        self._phase_ends = time.monotonic() + limit_s
        self._after(limit_s, lambda: None)
        self._signal(role)

    def _signal(self, role: str) -> None:
        # After SIGTERM an ingress may accept requests for a while before it drains, after SIGINT it does not.
        signum = signal.SIGTERM
        if role == "ingress" and self._hurries:
            signum = signal.SIGINT
            if self._handed_over:
                signum, self._handed_over = HANDED_OVER, False  # a second call hurries
        for child in self._of(role):
            child.signal(signum)

    def _of(self, role: str) -> list[Child]:
        roles = TOGETHER.get(role, (role,))
        return [child for child in self._children() if child.role in roles]
