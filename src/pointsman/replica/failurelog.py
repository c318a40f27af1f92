"""Logs exceptions of user code in its replica: once each, with traceback and the ids of the failed requests. An
exception that came from another backend is logged in full there, and named here.

Every failure that is sent to a caller passes through :meth:`FailureLog.record`. Failures that are not the backend's
fault have another reason than ``USER_CODE``, and are not logged.
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
"""Characters of an exception's text in the first line of the log; the traceback has all of it."""


class FailureLog:
    """Logs at most ten failures a second. Thread-safe."""

    def __init__(self) -> None:
        self._budget = WarningBudget()
        self._lock = threading.Lock()

    def record(self, error: BaseException, items: Sequence[Item], endings: Sequence[Ending]) -> None:
        """Log a failure of user code, unless none of its calls failed by the backend's fault.

        Args:
            error: what user code raised.
            items: the failed calls: several for a batch, which has one log line.
            endings: what their callers are sent.
        """
        failed = [
            (item.request.request_id, ending.failure)
            for item, ending in zip(items, endings, strict=True)
            if ending.failed and ending.failure is not None and ending.failure.reason is Reason.USER_CODE
            if not item.over
        ]
        if failed:
            try:
                self._log(error, failed[0][1], [request_id for request_id, _ in failed if request_id])
            except BaseException:  # noqa: BLE001
                pass  # raised by a log filter of user code, or by the exception's class: callers must get an answer

    def _log(self, error: BaseException, failure: FailureHead, ids: list[str]) -> None:
        passed_on = isinstance(error.__cause__, RemoteTraceback)  # from a handle: the other replica has logged it
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
