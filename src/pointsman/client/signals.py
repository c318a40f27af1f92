"""Handles the signals that ask this process to end while it waits for an instance.

The first one makes the wait return, so that the instance is stopped in good order; the next one cuts that short.
"""

from __future__ import annotations

import queue
import signal
import threading
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopWaiting(BaseException):
    """Raised by a signal that cuts a wait short."""


class EndingSignals:
    """A context manager that takes over the handlers of the signals that ask this process to end.

    It does so in the main thread only, where Python handles signals; in another thread it changes nothing. A signal
    that is ignored stays ignored, as nohup or a shell's ``&`` wants it, and the program's own handler of SIGHUP stays:
    many programs give that signal another meaning.

    Args:
        raising: whether the next signal raises :class:`StopWaiting`; otherwise :meth:`wait` returns it.
    """

    def __init__(self, *, raising: bool) -> None:
        self.raising = raising
        self._events: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._replaced: dict[int, Any] = {}

    def __enter__(self) -> EndingSignals:
        if threading.current_thread() is threading.main_thread():
            for signum in ENDING:
                handler = signal.getsignal(signum)
                if handler is signal.SIG_IGN or handler is None or (signum == signal.SIGHUP and callable(handler)):
                    continue
                self._replaced[signum] = handler
                signal.signal(signum, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        self.raising = False
        for signum, handler in self._replaced.items():
            signal.signal(signum, handler)

    def wait(self) -> int | None:
        """The next signal, or None after :meth:`notify_end`."""
        return self._events.get()

    def notify_end(self) -> None:
        """Make :meth:`wait` return None. May be called from any thread."""
        self._events.put(None)

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        if self.raising:
            self.raising = False  # raises once: the clean-up that follows must not be interrupted
            raise StopWaiting
        self._events.put(signum)  # a SimpleQueue, whose put() may interrupt a get() of the same thread
