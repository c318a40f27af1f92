"""Callers that wait until a change is in effect: the backend is settled and the routers have the new table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from pointsman.controller.failures import RECONFIGURE_REASONS, START_TRIES, Failures
from pointsman.controller.observed import Observed
from pointsman.controller.reconcile import is_settled, needed_at_start
from pointsman.controller.replicas import Phase, Replica
from pointsman.controller.state import Desired
from pointsman.exceptions import BackendStartError
from pointsman.model import Reason
from pointsman.wire.commands import Await, Progress
from pointsman.wire.messages import FailureHead, failure

#: How long routers may take to confirm a table, once a backend's replicas are as wanted.
TABLES_S = 60.0


class StartFailure(BackendStartError):
    """A backend's change was rolled back. Holds the exception of user code, still pickled."""

    def __init__(self, backend: str, failures: Failures) -> None:
        failures = failures.cause or failures
        self.reason = failures.reason
        self.traceback = failures.traceback
        self.pickled = failures.pickled
        if failures.reason in RECONFIGURE_REASONS:
            text = f"backend {backend!r} did not take its new config and keeps the old one"
        else:
            text = f"backend {backend!r} could not be brought up"
        super().__init__(f"{text} ({failures.reason.value}): {failures.words}")

    def head(self) -> FailureHead:
        """This error as a message."""
        if self.reason is Reason.RECONFIGURE_TIMEOUT:
            return failure(self.reason, "TimeoutError", str(self))
        return failure(self.reason, "BackendStartError", str(self), self.traceback)


class Situation(NamedTuple):
    """What waiters are checked against.

    Attributes:
        table_version: version of the newest routing table; 0 until one is published.
        ingresses: numbers of the routers in ingresses that are subscribed.
        unsubscribed: ingresses that live, use an earlier controller's table, and have not subscribed to this one yet.
    """

    desired: Desired
    observed: Observed
    table_version: int
    ingresses: frozenset[int]
    unsubscribed: frozenset[str] = frozenset()


class TableWait:
    """Tells whether routers use a table that has a change.

    Args:
        own_routers: numbers of the caller's own routers, which must have it too.
    """

    def __init__(self, own_routers: frozenset[int]) -> None:
        self._own_routers = own_routers
        self._version = 0  # of the first routing table that has the change, which is waited for

    def is_over(self, situation: Situation, *, connects: bool) -> bool:
        """True once ingresses and own routers use the table. Called once the change is made.

        Args:
            connects: whether they must have reached the replicas in it too.
        """
        # The version is fixed at the first check: during many changes routers are always one table behind the newest.
        wanted = self._version = self._version or situation.table_version
        concerned = situation.ingresses | self._own_routers
        known = situation.observed.confirmed
        reached = situation.observed.connected if connects else known
        return bool(
            wanted
            and not situation.unsubscribed
            and all(reached.get(router, 0) >= wanted for router in concerned if router in known)
        )


class Waiting(Protocol):
    """One caller that waits; its ``future`` is resolved by :meth:`check`."""

    future: asyncio.Future[Any]

    def check(self, situation: Situation) -> None: ...

    def end(self) -> None: ...


def has_come_up(situation: Situation) -> bool:
    """Whether nothing is on its way up any more.

    A stored backend that cannot start does not keep all others from being used (G8, IN10): the status shows it, and it
    is tried again.
    """
    desired, observed = situation.desired, situation.observed

    def has_failed(tag: str) -> bool:
        failures = observed.failures.get(tag)
        return failures is not None and failures.count >= START_TRIES

    return desired.running is None and all(
        is_settled(desired, observed, tag, needed_at_start(desired, tag)) or has_failed(tag) for tag in desired.backends
    )


class StartWait:
    """Waits until the instance has come up."""

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def check(self, situation: Situation) -> None:
        """Resolve ``future`` if it has."""
        if not self.future.done() and has_come_up(situation):
            self.future.set_result(None)

    def end(self) -> None:
        """Nothing is to be ended."""


class Waiter:
    """One caller who waits for a change.

    Args:
        command: says what is waited for.
        own_routers: numbers of the caller's own routers, which must have the table too.
        progress: called with the number of ready replicas whenever it changes.
    """

    def __init__(self, command: Await, own_routers: frozenset[int], progress: Callable[[Progress], None]) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._command = command
        self._tables = TableWait(own_routers)
        self._progress = progress
        self._timer: asyncio.TimerHandle | None = None
        self._reported: tuple[int, int] | None = None
        self._need: int | None = None  # replicas, where their number may change during the wait

    def check(self, situation: Situation) -> None:
        """Resolve ``future`` if the change is in effect, or cannot come into effect."""
        if self.future.done():
            return
        backend = self._command.backend
        if backend is not None:
            error = self._failure(backend, situation)
            if error is not None:
                self.future.set_exception(error)
                return
            self._report(backend, situation)
            if not self._is_there(backend, situation):
                return
            if self._timer is None:  # models may load for minutes, so the limit is for the tables only
                self._timer = asyncio.get_running_loop().call_later(TABLES_S, self._tables_are_late)
        # Calls must be spread over a backend's new replicas from the first on; nothing else is worth the wait for them.
        if self._tables.is_over(situation, connects=backend is not None and not self._command.gone):
            self.future.set_result(None)

    def end(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _tables_are_late(self) -> None:
        if not self.future.done():
            self.future.set_exception(too_late(TABLES_S))

    def _is_there(self, backend: str, situation: Situation) -> bool:
        desired, observed = situation.desired, situation.observed
        if self._command.fixed:
            there = _there(situation, backend)
            if self._need is None:
                self._need = len(there)
            return sum(replica.phase is Phase.READY for replica in there) >= min(self._need, desired.wanted(backend))
        if self._need is None and not self._command.gone:
            self._need = needed_at_start(desired, backend) if self._command.woken else _need(situation, backend)
        return is_settled(desired, observed, backend, self._need)

    def _failure(self, backend: str, situation: Situation) -> BackendStartError | None:
        if self._command.gone:
            return None
        failures = situation.observed.failures.get(backend)
        if self._command.fixed and backend in situation.desired.backends:  # whatever becomes of a deploy meanwhile
            ready = sum(replica.phase is Phase.READY for replica in _there(situation, backend))
            if failures is None or not failures.cannot_start or ready >= situation.desired.wanted(backend):
                return None
            return StartFailure(backend, failures)
        if failures is not None and failures.rolled_back >= self._command.version:
            return StartFailure(backend, failures)
        if failures is not None and self._command.woken and failures.cannot_start:
            return StartFailure(backend, failures)
        if backend not in situation.desired.backends:
            return BackendStartError(f"backend {backend!r} was deleted, or could not be brought up")
        # The same code again keeps the version: who deploys it shares the fate of the first one.
        if self._command.brings_code and situation.desired.backends[backend].version > self._command.version:
            return BackendStartError(
                f"another deploy has replaced this code of backend {backend!r} before it was in effect;"
                " client.history() shows whose"
            )
        return None

    def _report(self, backend: str, situation: Situation) -> None:
        spec = situation.desired.backends.get(backend)
        if spec is None:
            return
        mine = situation.observed.of(backend)
        ready = sum(replica.phase is Phase.READY and replica.version == spec.version for replica in mine)
        state = (ready, situation.desired.needed(backend))
        if state != self._reported:
            self._reported = state
            self._progress(Progress(backend, *state))


def _need(situation: Situation, backend: str) -> int:
    """So many replicas of an autoscaled backend are waited for: as many as its change needs, or as there are."""
    desired, failures = situation.desired, situation.observed.failures.get(backend)
    if backend not in desired.backends or backend in desired.fallbacks:
        return desired.needed(backend) if backend in desired.backends else 0
    there = _there(situation, backend)
    if failures is not None and failures.count:  # one that starts may fail again, for ever
        there = [replica for replica in there if replica.phase is Phase.READY]
    return len(there)


def _there(situation: Situation, backend: str) -> list[Replica]:
    """The replicas of a backend that start or are ready."""
    return [replica for replica in situation.observed.of(backend) if replica.is_current and not replica.killed]


def too_late(limit_s: float) -> TimeoutError:
    """The TimeoutError of a caller whose wait has timed out."""
    return TimeoutError(
        f"the change is made, but was not in effect everywhere after {limit_s:g} s; status() shows which HTTP servers"
        " are not up to date"
    )


class Waiters:
    """All waiting callers."""

    def __init__(self) -> None:
        self._waiters: set[Waiting] = set()

    async def wait(self, command: Await, own_routers: frozenset[int], progress: Callable[[Progress], None]) -> None:
        """Return when a change is in effect. For the arguments see :class:`Waiter`.

        Raises:
            BackendStartError: the change was rolled back, its code replaced by other code, or the backend deleted.
            TimeoutError: the change was not in effect in time.
        """
        await self.wait_for(Waiter(command, own_routers, progress), command.timeout_s)

    async def wait_for(self, waiter: Waiting, timeout_s: float | None) -> Any:
        """What a waiter's future is resolved with. Raises as that says, or TimeoutError after ``timeout_s`` seconds."""
        self._waiters.add(waiter)
        try:
            return await asyncio.wait_for(waiter.future, timeout_s)
        except asyncio.TimeoutError:
            if waiter.future.done() and not waiter.future.cancelled():
                raise  # set by ``_tables_are_late``
            raise too_late(timeout_s or TABLES_S) from None
        finally:
            waiter.end()
            self._waiters.discard(waiter)

    def check(self, situation: Situation) -> None:
        """Check all of them after a change of either state."""
        for waiter in self._waiters:
            waiter.check(situation)
