"""Who waits for what: callers that want to know when a change is in effect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from pointsman.controller.failures import RECONFIGURE_REASONS, Failures
from pointsman.controller.observed import Observed, Phase
from pointsman.controller.reconcile import is_settled
from pointsman.controller.state import Desired
from pointsman.exceptions import BackendStartError
from pointsman.model import Reason
from pointsman.wire.commands import Await, Progress
from pointsman.wire.messages import FailureHead, failure

TABLES_S = 60.0
"""How long the last HTTP server may take to use a new table, once a backend's replicas are as wanted."""


class StartFailure(BackendStartError):
    """A backend's change was taken back; carries what user code raised, still packed."""

    def __init__(self, backend: str, failures: Failures) -> None:
        failures = failures.taken_back or failures
        self.reason = failures.reason
        self.traceback = failures.traceback
        self.pickled = failures.pickled
        what = f"{failures.error}: {failures.text}" if failures.error else failures.text
        if failures.reason in RECONFIGURE_REASONS:
            text = f"backend {backend!r} did not take its new config and keeps the old one"
        else:
            text = f"backend {backend!r} could not be brought up"
        super().__init__(f"{text} ({failures.reason.value}): {what}")

    def head(self) -> FailureHead:
        """As a message."""
        if self.reason is Reason.RECONFIGURE_TIMEOUT:
            return failure(self.reason, "TimeoutError", str(self))
        return failure(self.reason, "BackendStartError", str(self), self.traceback)


class Situation(NamedTuple):
    """What waiters are checked against."""

    desired: Desired
    observed: Observed
    table_version: int
    """Of the newest routing table; 0 while none may be published."""
    ingresses: frozenset[int]
    unsubscribed: frozenset[str] = frozenset()
    """Ingresses that live, serve by an earlier controller's table, and have not subscribed to this one yet."""


class Waiter:
    """One caller.

    Args:
        command: what is waited for.
        own_routers: the caller's routers, by number; they must have the newest table too.
        progress: told how many replicas are ready whenever that changes.
    """

    def __init__(self, command: Await, own_routers: frozenset[int], progress: Callable[[Progress], None]) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._command = command
        self._own_routers = own_routers
        self._progress = progress
        self._version = 0
        self._timer: asyncio.TimerHandle | None = None
        """Of the routing table that is waited for: the first that has the change."""
        self._reported: tuple[int, int] | None = None

    def check(self, situation: Situation) -> None:
        """Resolve ``future`` when what is waited for has come, or cannot come."""
        if self.future.done():
            return
        backend = self._command.backend
        if backend is not None:
            error = self._failure(backend, situation)
            if error is not None:
                self.future.set_exception(error)
                return
            self._report(backend, situation)
            if not is_settled(situation.desired, situation.observed, backend):
                return
            if self._timer is None:  # a model may load for long; tables have no reason to
                self._timer = asyncio.get_running_loop().call_later(TABLES_S, self._tables_are_late)
        # Later tables are not waited for: under a storm of changes the newest is always one ahead.
        wanted = self._version = self._version or situation.table_version
        concerned = situation.ingresses | self._own_routers
        confirmed = situation.observed.confirmed
        if (
            wanted
            and not situation.unsubscribed
            and all(confirmed[router] >= wanted for router in concerned if router in confirmed)
        ):
            self.future.set_result(None)

    def end(self) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _tables_are_late(self) -> None:
        if not self.future.done():
            self.future.set_exception(_too_late(TABLES_S))

    def _failure(self, backend: str, situation: Situation) -> BackendStartError | None:
        if self._command.gone:
            return None
        failures = situation.observed.failures.get(backend)
        if failures is not None and failures.rolled_back >= self._command.version:
            return StartFailure(backend, failures)
        if backend not in situation.desired.backends:
            return BackendStartError(f"backend {backend!r} was deleted, or could not be brought up")
        return None

    def _report(self, backend: str, situation: Situation) -> None:
        spec = situation.desired.backends.get(backend)
        if spec is None:
            return
        mine = situation.observed.of(backend)
        ready = sum(replica.phase is Phase.READY and replica.version == spec.version for replica in mine)
        state = (ready, spec.config.num_replicas)
        if state != self._reported:
            self._reported = state
            self._progress(Progress(backend, *state))


def _too_late(limit_s: float) -> TimeoutError:
    """What the caller is told who does not wait any longer."""
    return TimeoutError(
        f"the change is made, but was not in effect everywhere after {limit_s:g} s; status() shows which HTTP servers"
        " are not up to date"
    )


class Waiters:
    """All who wait at present."""

    def __init__(self) -> None:
        self._waiters: set[Waiter] = set()

    async def wait(self, command: Await, own_routers: frozenset[int], progress: Callable[[Progress], None]) -> None:
        """Return when what one caller waits for has come; see :class:`Waiter`.

        Raises:
            BackendStartError: it cannot come.
            TimeoutError: it has not come in time.
        """
        waiter = Waiter(command, own_routers, progress)
        self._waiters.add(waiter)
        try:
            await asyncio.wait_for(waiter.future, command.timeout_s)
        except asyncio.TimeoutError:
            if waiter.future.done() and not waiter.future.cancelled():
                raise  # its own, about tables
            raise _too_late(command.timeout_s or TABLES_S) from None
        finally:
            waiter.end()
            self._waiters.discard(waiter)

    def check(self, situation: Situation) -> None:
        """Something has changed."""
        for waiter in self._waiters:
            waiter.check(situation)
