"""Counts the failures of a backend's replicas and decides when the next one is launched (decision 0047). Pure: the
time is an argument.

Failed starts have a budget: quick tries, then one each ``SLOW_RETRY_S``. Losses, which are replicas that had served,
have none: each is replaced at once, or after a short backoff if losses follow each other.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import NamedTuple

from pointsman.model import Reason
from pointsman.policy.backoff import Backoff

RECONFIGURE_REASONS = (Reason.RECONFIGURE_FAILED, Reason.RECONFIGURE_TIMEOUT)

#: A change whose replicas fail this often in a row is rolled back, and calls that find no replica are refused.
START_TRIES = 3
#: After this many failed starts in a row a start is tried every ``SLOW_RETRY_S``: four quick tries, then slow ones.
BUDGET = 5
SLOW_RETRY_S = 30.0
BACKOFF = Backoff(first_s=0.1, last_s=10.0)
#: The longest wait before a lost replica is replaced, while no other of its backend serves.
BACKOFF_ALONE_S = 1.0
#: The loss of a replica that had served this long begins a new count.
STEADY_S = 10.0

#: So many of the last failures of each backend are kept, to be shown.
KEPT = 10


class Failed(NamedTuple):
    """One failure of a replica, as it is shown. ``at`` is of the controller's clock."""

    at: float
    replica: str
    reason: Reason
    text: str
    traceback: str


class FailureLog(dict[str, deque[Failed]]):
    """The last failures of each backend, oldest first. Nothing is decided by them, so they outlast what is counted."""

    def add(self, backend: str, failed: Failed) -> None:
        """Add the newest."""
        self.setdefault(backend, deque(maxlen=KEPT)).append(failed)


@dataclass
class Failures:
    """The failures of a backend since it last worked."""

    #: Failures in a row, of either kind.
    count: int = 0
    #: Failed starts in a row; no replica has served since the first of them.
    starts: int = 0
    #: Losses in a row; each after the first of a replica that had served for less than ``STEADY_S``.
    losses: int = 0
    #: No replica is launched before this time, while one of the backend serves.
    next_try: float = 0.0
    #: The same, while none serves.
    next_try_alone: float = 0.0
    #: True if the next launch replaces a loss; failed starts must not delay it.
    replacing: bool = False
    #: Time of the last failed start.
    failed_at: float = float("-inf")
    reason: Reason = Reason.CONSTRUCTOR_FAILED
    error: str = ""
    text: str = ""
    traceback: str = ""
    pickled: bytes = b""
    #: Version of the change that was rolled back; 0 if none was.
    rolled_back: int = 0
    #: A copy of this as it was at that rollback, for the error of whoever made the change: what fails later, such as
    #: starts of the old version, is not the reason.
    cause: Failures | None = None

    @property
    def words(self) -> str:
        """The last failure in one sentence."""
        return f"{self.error}: {self.text}" if self.error else self.text

    @property
    def cannot_start(self) -> bool:
        """Whether so many starts have failed in a row that the next one is likely to fail too."""
        return min(self.starts, self.count) >= START_TRIES

    def start_failed(self, now: float, *, recovered: bool = False) -> None:
        """Count a replica that did not get ready, or exited soon after without having answered. The next start is tried
        at once, then after 0.1, 0.2 and 0.4 s, then every 30 s.

        Args:
            recovered: whether a replica has served since the last failed start.
        """
        self.count += 1
        self.starts = 1 if recovered else self.starts + 1
        self.failed_at = now
        delay_s = SLOW_RETRY_S if self.starts >= BUDGET else BACKOFF.after(self.starts)
        due, alone_s = now + delay_s, self.next_try_alone
        # A launch that replaces a loss keeps its earlier time: code that cannot start must not delay code that served.
        self.replacing = self.replacing and self.next_try > now
        self.next_try_alone = min(alone_s, due) if self.replacing and alone_s > now else due
        self.next_try = min(self.next_try, due) if self.replacing else due

    def lost(self, now: float, lived_s: float, *, steady_s: float = STEADY_S) -> None:
        """Count a replica that had served and has exited or must be replaced. The next is launched at once, then after
        0.1, 0.2, 0.4 s and so on.

        Args:
            lived_s: how long it was ready.
            steady_s: a replica that was ready for this long begins a new count.
        """
        steady = lived_s >= steady_s
        self.count = 1 if steady else self.count + 1
        self.losses = 1 if steady else self.losses + 1
        if now - lived_s > self.failed_at:  # it got ready after the last failed start, so the code can start
            self.starts = 0
        delay_s = BACKOFF.after(self.losses)
        self.replacing = True
        self.next_try = now + delay_s
        self.next_try_alone = now + min(BACKOFF_ALONE_S, delay_s)

    def roll_back(self, version: int) -> None:
        """Record that the change of this version is rolled back because of the last failure."""
        self.forget()
        self.rolled_back = version
        self.cause = replace(self)

    def forget(self) -> None:
        """Reset all counts. The description of the last failure is kept for the status."""
        self.count = self.starts = self.losses = self.rolled_back = 0
        self.cause = None
        self.next_try = self.next_try_alone = 0.0
        self.replacing = False
