"""What went wrong with a backend's replicas, and when the next one is tried. Pure: the time is an argument.

A start that failed uses up the backend's budget: quick tries, then one each ``SLOW_RETRY_S``. A replica that had served
and is lost has none: it is replaced at once, and with a short back-off when that happens again and again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pointsman.model import Reason
from pointsman.policy.backoff import Backoff

RECONFIGURE_REASONS = (Reason.RECONFIGURE_FAILED, Reason.RECONFIGURE_TIMEOUT)

BUDGET = 5
"""Failed starts in a row after which a backend is tried every ``SLOW_RETRY_S``: four quick tries, then slow ones."""
SLOW_RETRY_S = 30.0
BACKOFF = Backoff(first_s=0.1, last_s=10.0)
BACKOFF_ALONE_S = 1.0
"""The longest wait before a replica that had served is replaced, while no other one of its backend serves."""
STEADY_S = 10.0
"""A replica that served this long was well: its death begins a new count."""


@dataclass
class Failures:
    """What went wrong with a backend since it was last well."""

    count: int = 0
    """Failures in a row, of either kind."""
    starts: int = 0
    """Failed starts in a row: none has served since the first of them."""
    losses: int = 0
    """Losses in a row of replicas that had served, none of them for ``STEADY_S``."""
    next_try: float = 0.0
    """Nothing is started before, while a replica of the backend serves."""
    next_try_alone: float = 0.0
    """The same while none does."""
    replacing: bool = False
    """Whether the next try is to replace one that had served: no failed start may put it off."""
    failed_at: float = float("-inf")
    """When the last start failed."""
    reason: Reason = Reason.CONSTRUCTOR_FAILED
    error: str = ""
    text: str = ""
    traceback: str = ""
    pickled: bytes = b""
    rolled_back: int = 0
    """Version of the change that was taken back; 0 while nothing was."""
    taken_back: Failures | None = None
    """What had that change taken back. What fails later, such as the way back, is no answer to who made the change."""

    def start_failed(self, now: float, *, recovered: bool = False) -> None:
        """A replica did not get ready, or died soon after and had not answered. The next is tried at once, then after
        0.1, 0.2 and 0.4 s, then every 30 s.

        Args:
            recovered: whether another replica has served since the last failed start.
        """
        self.count += 1
        self.starts = 1 if recovered else self.starts + 1
        self.failed_at = now
        delay_s = SLOW_RETRY_S if self.starts >= BUDGET else BACKOFF.after(self.starts)
        due, alone_s = now + delay_s, self.next_try_alone
        # What is to replace one that had served does not wait for what cannot come up.
        self.replacing = self.replacing and self.next_try > now
        self.next_try_alone = min(alone_s, due) if self.replacing and alone_s > now else due
        self.next_try = min(self.next_try, due) if self.replacing else due

    def lost(self, now: float, lived_s: float, *, steady_s: float = STEADY_S) -> None:
        """A replica that had served is gone, or has to go: replaced at once, then after 0.1, 0.2, 0.4 s and so on.

        Args:
            lived_s: for how long it was ready.
            steady_s: one that was ready for so long begins a new count.
        """
        steady = lived_s >= steady_s
        self.count = 1 if steady else self.count + 1
        self.losses = 1 if steady else self.losses + 1
        if now - lived_s > self.failed_at:
            self.starts = 0
        delay_s = BACKOFF.after(self.losses)
        self.replacing = True
        self.next_try = now + delay_s
        self.next_try_alone = now + min(BACKOFF_ALONE_S, delay_s)

    def take_back(self, version: int) -> None:
        """The change of this version is taken back, for what has failed last."""
        self.forget()
        self.rolled_back = version
        self.taken_back = replace(self)

    def forget(self) -> None:
        """What comes is a new beginning; what was said of the last failure is kept for the status."""
        self.count = self.starts = self.losses = self.rolled_back = 0
        self.taken_back = None
        self.next_try = self.next_try_alone = 0.0
        self.replacing = False
