"""What user code raised, as the log of its replica says it: once, with its traceback and the ids of the requests that
it has cost. What came from another backend is said there, and only named here.

Every failure that callers are told of passes through :meth:`FailureLog.note`; those that are no fault of the backend
have another reason than ``USER_CODE``, and are not said.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from pointsman.context import replica_context
from pointsman.exceptions import RemoteTraceback
from pointsman.model import Reason
from pointsman.replica.item import Ending, Item
from pointsman.telemetry.logs import FIELDS, WarningBudget, log_failure
from pointsman.wire.messages import FailureHead

log = logging.getLogger("pointsman.replica")

LONGEST_TEXT = 200
"""Characters of an exception's text in the first line; the traceback has all of it."""


class FailureLog:
    """Says at most ten failures a second. From any thread."""

    def __init__(self) -> None:
        self._budget = WarningBudget()
        self._lock = threading.Lock()

    def note(self, error: BaseException, items: Sequence[Item], endings: Sequence[Ending]) -> None:
        """User code has failed.

        Args:
            error: what it raised.
            items: the calls that it has cost: several of a batch, which are said as one.
            endings: what their callers are told.
        """
        failed = [
            (item.request.request_id, ending.failure)
            for item, ending in zip(items, endings, strict=True)
            if ending.failed and ending.failure is not None and ending.failure.reason is Reason.USER_CODE
            if not item.over
        ]
        if failed:
            try:
                self._say(error, failed[0][1], [request_id for request_id, _ in failed if request_id])
            except BaseException:  # noqa: BLE001
                pass  # a filter of user code, or the exception's own class: its callers must be told all the same

    def _say(self, error: BaseException, failure: FailureHead, ids: list[str]) -> None:
        passed_on = isinstance(error.__cause__, RemoteTraceback)  # it came by a handle; who raised it has said so
        with self._lock:
            held_back = self._budget.take("passed on" if passed_on else "raised", time.monotonic())
        if held_back is None:
            return
        level = logging.INFO if passed_on else logging.ERROR
        if held_back:
            log.log(level, "%d more failures of user code were held back", held_back)
        replica = replica_context()
        who = replica.replica if replica is not None else "user code"
        if passed_on:
            about = {FIELDS: {"request_ids": ids}}
            log.info("%s passed on %s of a call that it had made", who, failure.error, extra=about)
        else:
            log_failure(log, f"{who} raised {_first_line(failure)}", failure.traceback, request_ids=ids)


def _first_line(failure: FailureHead) -> str:
    text = failure.text.strip().partition("\n")[0]
    if len(text) > LONGEST_TEXT:
        text = text[:LONGEST_TEXT] + " ..."
    return f"{failure.error}: {text}" if text else failure.error
