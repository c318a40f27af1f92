"""A replica's health: a thread with a connection of its own answers the controller, whatever user code does.

    controller -> HEALTH -> health thread -> HEALTH back:  how busy, whether the loop turns, what check_health says

User load cannot starve it, since it waits in no queue; a blocked event loop is what it tells of. Only two things
silence it: C code that holds the interpreter, and a stopped process. The user's ``check_health`` runs on a second
thread, or on the loop when it is ``async def``, so that a check which hangs is told of as well.
"""

from __future__ import annotations

import asyncio
import faulthandler
import inspect
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from pointsman.engine.instances import present_address
from pointsman.replica.item import Item
from pointsman.replica.thread import settled
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
"""By its number: ``sys.stderr`` belongs to user code."""
DUMP_AFTER_S = 5.0
"""A loop that has been blocked for this long has its stacks written to the log, once."""


class Vitals(NamedTuple):
    """How busy a replica is. See :class:`~pointsman.wire.messages.HealthAnswer`."""

    load: int = 0
    patience_s: float | None = None
    overdue_s: float = 0.0


def vitals_of(items: list[Item], on_thread: tuple[float, list[Item]] | None, declared_s: float) -> Vitals:
    """How busy a replica with these calls is, some of which sync code has been running since a moment."""
    now = time.monotonic()
    patience = [max(item.deadline, item.arrived + declared_s) - now for item in items]
    overdue_s = 0.0
    if on_thread is not None and not any(item.credit for item in on_thread[1]):
        began, running = on_thread
        overdue_s = now - max(began + declared_s, *(item.deadline for item in running))
    return Vitals(len(items), max(patience, default=None), max(0.0, overdue_s))


class Health:
    """Answers for one replica.

    Args:
        handover: who this replica is.
        vitals: read from the health thread.

    Call :meth:`start` on the loop that is watched.
    """

    def __init__(self, handover: ReplicaHandover, vitals: Callable[[], Vitals]) -> None:
        self._handover = handover
        self._vitals = vitals
        self._loop = asyncio.get_running_loop()
        self._check: Check | None = None
        self._asked_loop: float | None = None
        """When the loop was asked to turn; None when it has since."""
        self._turned = time.monotonic()
        self._dumped = False
        self._thread = threading.Thread(target=self._main, name="pointsman-health", daemon=True)

    def start(self, check: Callable[[], Any] | None, context: UserContext) -> None:
        """Begin to answer; ``check`` is the user's ``check_health``, each time run in a copy of ``context``."""
        if check is not None:
            self._check = Check(check, self._loop, context)
        self._thread.start()

    def let_go(self) -> None:
        """Ask user code no more."""
        if self._check is not None:
            self._check.let_go()
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
                time.sleep(REDIAL_PAUSE_S)  # the controller is being restarted, or all of this is about to end
                continue
            try:
                stream.send(Kind.HEALTH, 0)  # says whose health is asked for here
                while True:
                    for frame in stream.receive():
                        stream.send(Kind.HEALTH, frame.call_id, pack(self.answer()))
            except (OSError, WireError):
                stream.close()

    def answer(self) -> HealthAnswer:
        """How this replica is; also asks the loop to turn and ``check_health`` to run, for the next answer."""
        now = time.monotonic()
        blocked_s = 0.0 if self._asked_loop is None else now - self._asked_loop
        if self._asked_loop is None:
            self._asked_loop = now
            self._call_loop(self._loop_turns)
        if blocked_s > DUMP_AFTER_S and not self._dumped:
            self._dumped = True
            log.warning("the event loop has been blocked for %.0f s; this is where:", blocked_s)
            faulthandler.dump_traceback(STDERR)
        vitals = self._vitals()
        check = self._check
        told = check.look(now, self._turned) if check is not None else NO_CHECK
        return HealthAnswer(
            load=vitals.load,
            blocked_s=blocked_s,
            patience_s=vitals.patience_s,
            overdue_s=vitals.overdue_s,
            check_failures=told.failures,
            check_running_s=told.running_s,
            check_error=told.failure.error if told.failure else "",
            check_text=told.failure.text if told.failure else "",
            check_traceback=told.failure.traceback if told.failure else "",
        )

    def _loop_turns(self) -> None:
        self._turned = time.monotonic()
        self._asked_loop = None
        self._dumped = False

    def _call_loop(self, callback: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            pass  # the loop is closed: the process is ending


class Checked(NamedTuple):
    """What the user's check has said so far."""

    failures: int = 0
    running_s: float = 0.0
    failure: FailureHead | None = None


NO_CHECK = Checked()


class Check:
    """Runs the user's ``check_health`` on a thread of its own, once for each look.

    It fails by raising, or by returning False.
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

    def look(self, now: float, turned: float) -> Checked:
        """What is known; begins the next check unless one runs.

        Args:
            turned: when the loop was last seen to turn. A check that waits for a blocked loop is not what hangs.
        """
        began = self._began
        if began is None:
            self._began = now
            self._wanted.release()
            running_s = 0.0
        else:
            running_s = max(0.0, min(now, turned) - began) if self._on_loop else now - began
        return Checked(self._failures, running_s, self._failure)

    def let_go(self) -> None:
        """Run no more."""
        self._function = None
        self._wanted.release()

    def _main(self) -> None:
        while True:
            self._wanted.acquire()
            if self._function is None:
                return
            try:
                self._run(self._function)
            except BaseException as error:  # noqa: BLE001 - user code: what it raises is its verdict
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
            finished = context.run(asyncio.run_coroutine_threadsafe, settled(result), self._loop)
            result, error = finished.result()
            if error is not None:
                raise error
        if result is False:
            raise RuntimeError("check_health returned False")
