"""Which backends must be planned again, so that an event costs what it changes. Pure.

A backend is planned again after each change of its specification, fallback, failures or replicas (:meth:`touch`),
at the time that its last plan gave, when a router has confirmed a table for which it waits, and when resources may be
free that it lacks. Nothing else can change its plan; see :func:`~pointsman.controller.reconcile.plan_for`.
"""

from __future__ import annotations

from collections.abc import Iterable

from pointsman.controller.reconcile import Action, Short, WakeAt
from pointsman.controller.state import Desired


class Agenda:
    """The backends to plan again, and the time of the next plan.

    Args:
        short: is kept up to date: the backends that lack a replica for want of resources.
    """

    def __init__(self, short: set[str] | None = None) -> None:
        self._touched: set[str] = set()
        self._wakes: dict[str, float] = {}
        self._for_routers: set[str] = set()
        self._short: set[str] = set() if short is None else short

    def touch(self, *backends: str) -> None:
        """Plan these again."""
        self._touched.update(backends)

    def touch_at(self, backend: str, time: float) -> None:
        """Plan a backend again at a time, or earlier if that is due."""
        self._wakes[backend] = min(time, self._wakes.get(backend, time))

    def routers_changed(self) -> None:
        """A router has confirmed a table, has come or is gone."""
        self._touched |= self._for_routers

    def resources_changed(self) -> None:
        """Some resources may have become free."""
        self._touched |= self._short

    @property
    def next_time(self) -> float | None:
        """When a backend is due, if nothing happens before; None if none will be."""
        return min(self._wakes.values(), default=None)

    def take(self, desired: Desired, now: float) -> list[str]:
        """The backends that are due now, in the order in which they get resources. They count as planned."""
        due = self._touched | {backend for backend, time in self._wakes.items() if time <= now}
        if due:
            due |= self._short  # whoever else needs room may have the weaker claim to it
        self._touched = set()
        self._for_routers -= due
        self._short -= due
        for backend in due:
            self._wakes.pop(backend, None)
        if len(due) <= 1:
            return list(due)
        wanted = [backend for backend in desired.backends if backend in due]
        return [*wanted, *sorted(due.difference(wanted))]

    def note(self, actions: Iterable[Action]) -> None:
        """Keep what a plan says about when to plan again."""
        for action in actions:
            if isinstance(action, WakeAt):
                self.touch_at(action.backend, action.time)
                if action.routers:
                    self._for_routers.add(action.backend)
            elif isinstance(action, Short):
                self._short.add(action.backend)
