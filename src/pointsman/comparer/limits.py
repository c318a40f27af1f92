"""How long a comparison may take, and how much memory: one of ours is broken off, and a user's function, which has a
process of its own, is killed with it."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from pointsman.comparing.answers import NO_ROOM
from pointsman.comparing.pairs import DIED, HUNG, Outcome
from pointsman.engine.limited import READY, START_S, LimitedProcess
from pointsman.model.comparison import Function
from pointsman.wire.pairs import Pair, packed

log = logging.getLogger("pointsman.comparer")

PROCESS = "pointsman.comparer.function"
LIMIT_S = 1.0
"""How long one comparison may take."""
AGAIN_S = 1.0
"""A process is started once in so many seconds at most."""
IDLE_S = 60.0
"""A process without work ends after this time; the next pair starts another one."""
MAX_QUEUED = 16 * 1024 * 1024
"""Bytes of answers that wait for one function."""
PAIR_SIZE = 2048
"""What a pair takes beside the bodies, at least."""


class TooSlowError(Exception):
    """A comparison has taken too long."""


@contextlib.contextmanager
def limited(seconds: float = LIMIT_S) -> Iterator[None]:
    """Break the block off after so many seconds. On the main thread, for code that is Python.

    Raises:
        TooSlowError: it took longer.
    """

    def break_off(signum: int, frame: object) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGALRM, break_off)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class FunctionRunner:
    """Has a user's function compare pairs, one after the other, on a thread that waits for its process.

    Args:
        function: the user's.
        done: called on that thread with each pair and what came of it.
    """

    def __init__(self, function: Function, done: Callable[[Pair, Outcome], object]) -> None:
        self._function = function
        self._done = done
        self._waiting: deque[Pair] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closed = False
        self._process: LimitedProcess | None = None
        self._started_at = float("-inf")
        self._starts = True
        threading.Thread(target=self._run, name="pointsman-function", daemon=True).start()

    def put(self, pair: Pair) -> None:
        """Have a pair compared; without room it is not."""
        size = _size(pair)
        with self._changed:
            room = self._bytes + size <= MAX_QUEUED
            if room:
                self._bytes += size
                self._waiting.append(pair)
                self._changed.notify()
        if not room:
            self._done(pair, Outcome(uncompared=NO_ROOM))

    def close(self) -> None:
        """End the process and the thread. What waits is not compared."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    if not self._changed.wait(IDLE_S):
                        self._end()
                if self._closed:
                    break
                pair = self._waiting.popleft()
                self._bytes -= _size(pair)
            self._done(pair, self._compare(pair))
        self._end()

    def _compare(self, pair: Pair) -> Outcome:
        process = self._process or self._start()
        if process is None:
            return Outcome(uncompared=DIED)
        answer = process.ask(packed(pair), LIMIT_S)
        if answer:
            try:
                return msgspec.msgpack.decode(answer, type=Outcome)
            except msgspec.DecodeError:
                answer = b""  # user code has written to our socket
        self._end()
        log.warning("the comparing function %r %s", self._function.path, "has ended" if answer == b"" else "hangs")
        return Outcome(uncompared=DIED if answer == b"" else HUNG)

    def _start(self) -> LimitedProcess | None:
        """The process, once it is ready; None if it cannot be. Those that wait meanwhile are compared afterwards."""
        pause = self._started_at + AGAIN_S - time.monotonic()
        if pause > 0 and not self._starts:
            return None  # what cannot be imported will not be a moment later
        if pause > 0:
            time.sleep(pause)
        self._started_at = time.monotonic()
        try:
            self._process = LimitedProcess(PROCESS, msgspec.msgpack.encode(self._function))
        except OSError as error:
            log.warning("the comparing function %r could not be started: %s", self._function.path, error)
            return None
        self._starts = self._process.read(START_S) == READY
        if not self._starts:
            self._end()
        return self._process

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None


def _size(pair: Pair) -> int:
    return len(pair.primary.body) + len(pair.shadow.body) + PAIR_SIZE
