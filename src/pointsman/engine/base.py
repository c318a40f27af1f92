"""The seam between the controller and an engine.

Every method returns at once; what came of it arrives as an event. An engine knows processes by number and never looks
into what it hands over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pointsman.wire.handover import Launch, ProcessEvent, ShutdownOrder

EventSink = Callable[[ProcessEvent], None]


class Engine(Protocol):
    """What the controller asks for."""

    def launch(self, order: Launch) -> None:
        """Start a replica process; ``started`` or ``exited`` follows."""

    def stop(self, number: int) -> None:
        """Ask a process to finish and exit; ``exited`` follows when it does."""

    def kill(self, number: int) -> None:
        """End a process now; ``exited`` follows."""

    def is_stopped(self, pid: int) -> bool:
        """Whether a process is known to be stopped by a signal; False where that cannot be told."""

    def shutdown(self, order: ShutdownOrder) -> None:
        """End the whole instance, the controller last."""
