"""A replica's health: a thread with its own connection answers the controller's health checks.

    controller -> HEALTH -> health thread -> HEALTH back: load, whether the event loop runs, result of check_health

User load cannot delay the answers, since they wait in no queue, and a blocked event loop is reported rather than fatal
(decision 0018). Only C code that holds the interpreter, and a stopped process, silence the thread. The user's
``check_health`` runs on a second thread, or on the loop if it is ``async def``, so that a check that hangs is reported
as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import inspect
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from pointsman.engine.instances import present_address
from pointsman.replica.item import Item
from pointsman.replica.loopload import LoopLoad
from pointsman.replica.outcomes import outcome_of
from pointsman.replica.usercontext import UserContext
from pointsman.telemetry.logs import log_failure
from pointsman.usercode.callables import is_async
from pointsman.wire.auth import ROLE_REPLICA
from pointsman.wire.blocking import BlockingStream
from pointsman.wire.failures import describe_failure
from pointsman.wire.frames import Kind, WireError
from pointsman.wire.handover import ReplicaHandover
from pointsman.wire.messages import FailureHead, HealthAnswer, pack

log = logging.getLogger("pointsman.replica")

REDIAL_PAUSE_S = 0.2
STDERR = 2
"""Descriptor of standard error. User code may have replaced ``sys.stderr``."""
DUMP_AFTER_S = 5.0
"""When the loop has been blocked for this long, the stacks of all threads are logged once."""


class Vitals(NamedTuple):
    """How busy a replica is. The fields are those of :class:`~pointsman.wire.messages.HealthAnswer`."""

    load: int = 0
    patience_s: float | None = None
    overdue_s: float = 0.0
    models: tuple[int, ...] = ()


def vitals_of(items: list[Item], on_thread: tuple[float, list[Item]] | None, timeout_s: float) -> Vitals:
    """How busy a replica is.

    Args:
        items: its calls.
        on_thread: when the thread of sync code began its present calls, and those calls.
        timeout_s: a call counts as overdue only after this long, even if its deadline is earlier.
    """
    now = time.monotonic()
    patience = [max(item.deadline, item.arrived + timeout_s) - now for item in items]
    overdue_s = 0.0
    if on_thread is not None and not any(item.credit for item in on_thread[1]):
        began, running = on_thread
        overdue_s = now - max(began + timeout_s, *(item.deadline for item in running))
    return Vitals(len(items), max(patience, default=None), max(0.0, overdue_s))


class Health:
    """Answers the controller's health checks of one replica.

    Made on the loop that is watched.

    Args:
        handover: identity and keys of this replica.
        vitals: called on the health thread.
        on_loop: whether user code runs on the loop, so that a call may block others.
    """

    def __init__(self, handover: ReplicaHandover, vitals: Callable[[], Vitals], *, on_loop: bool = False) -> None:
        self._handover = handover
        self._vitals = vitals
        self._loop = asyncio.get_running_loop()
        self._check: Check | None = None
        self._pinged_at: float | None = None  # None once the loop has run the callback
        self._turned = time.monotonic()
        self._dumped = False
        self._loop_load = LoopLoad(self._loop) if on_loop else None
        self._thread = threading.Thread(target=self._main, name="pointsman-health", daemon=True)

    def start(self, check: Callable[[], Any] | None, context: UserContext) -> None:
        """Begin to answer. ``check`` is the user's ``check_health``; each run gets a copy of ``context``."""
        if check is not None:
            self._check = Check(check, self._loop, context)
        self._thread.start()

    def stop_checks(self) -> None:
        """Do not call the user's ``check_health`` any more."""
        if self._check is not None:
            self._check.stop_checks()
            self._check = None

    def _main(self) -> None:
        hand = self._handover
        while True:
            try:
                stream = BlockingStream(
                    present_address(hand.control_path),
                    instance=hand.instance,
                    role=ROLE_REPLICA,
                    identity=str(hand.number),
                    key=hand.control_key,
                )
            except (OSError, WireError):
                time.sleep(REDIAL_PAUSE_S)  # the controller is being restarted, or the instance has ended
                continue
            try:
                stream.send(Kind.HEALTH, 0)  # tells the controller which replica this connection is for
                while True:
                    for frame in stream.receive():
                        stream.send(Kind.HEALTH, frame.call_id, pack(self.answer()))
            except (OSError, WireError):
                stream.close()

    def answer(self) -> HealthAnswer:
        """The answer to one health check. Starts the next ping of the loop and the next ``check_health``, whose results
        are in the next answer."""
        now = time.monotonic()
        blocked_s = 0.0 if self._pinged_at is None else now - self._pinged_at
        if self._pinged_at is None:
            self._pinged_at = now
            self._call_loop(self._pong)
        if blocked_s > DUMP_AFTER_S and not self._dumped:
            self._dumped = True
            log.warning("the event loop has been blocked for %.0f s; this is where:", blocked_s)
            faulthandler.dump_traceback(STDERR)
        vitals = self._vitals()
        blocked_share = 0.0
        if self._loop_load is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process is ending
                blocked_share = self._loop_load.share(busy=vitals.load > 0)
        check = self._check
        checked = check.poll(now, self._turned) if check is not None else NO_CHECK
        return HealthAnswer(
            load=vitals.load,
            blocked_s=blocked_s,
            patience_s=vitals.patience_s,
            overdue_s=vitals.overdue_s,
            check_failures=checked.failures,
            check_running_s=checked.running_s,
            check_error=checked.failure.error if checked.failure else "",
            check_text=checked.failure.text if checked.failure else "",
            check_traceback=checked.failure.traceback if checked.failure else "",
            models=vitals.models,
            blocked_share=blocked_share,
        )

    def _pong(self) -> None:
        self._turned = time.monotonic()
        self._pinged_at = None
        self._dumped = False

    def _call_loop(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            pass  # the loop is closed: the process is ending


class CheckResult(NamedTuple):
    """Results of the user's ``check_health`` so far."""

    failures: int = 0
    running_s: float = 0.0
    failure: FailureHead | None = None


NO_CHECK = CheckResult()


class Check:
    """Runs the user's ``check_health`` on its own thread, once per :meth:`poll`.

    A check fails by raising, or by returning False.
    """

    def __init__(self, function: Callable[[], Any], loop: asyncio.AbstractEventLoop, context: UserContext) -> None:
        self._function: Callable[[], Any] | None = function
        self._on_loop = is_async(function)
        self._loop = loop
        self._context = context
        self._wanted = threading.Semaphore(0)
        self._began: float | None = None
        self._failures = 0
        self._failure: FailureHead | None = None
        threading.Thread(target=self._main, name="pointsman-check-health", daemon=True).start()

    def poll(self, now: float, last_turn: float) -> CheckResult:
        """Return the results so far, and start the next check unless one is running.

        Args:
            last_turn: when the loop last ran a callback. An async check does not count as running while it only waits
                for a blocked loop.
        """
        began = self._began
        if began is None:
            self._began = now
            self._wanted.release()
            running_s = 0.0
        else:
            running_s = max(0.0, min(now, last_turn) - began) if self._on_loop else now - began
        return CheckResult(self._failures, running_s, self._failure)

    def stop_checks(self) -> None:
        """End the thread of the checks."""
        self._function = None
        self._wanted.release()

    def _main(self) -> None:
        while True:
            self._wanted.acquire()
            if self._function is None:
                return
            try:
                self._run(self._function)
            except BaseException as error:  # noqa: BLE001 - user code: an exception is the result
                self._failures += 1
                self._failure, _ = describe_failure(error, with_object=False)
                if self._failures == 1:
                    log_failure(log, "check_health failed", self._failure.traceback)
            else:
                self._failures, self._failure = 0, None
            self._began = None

    def _run(self, function: Callable[[], Any]) -> None:
        context = self._context.copy()
        result = context.run(function)
        if inspect.isawaitable(result):
            finished = context.run(asyncio.run_coroutine_threadsafe, outcome_of(result), self._loop)
            result, error = finished.result()
            if error is not None:
                raise error
        if result is False:
            raise RuntimeError("check_health returned False")
