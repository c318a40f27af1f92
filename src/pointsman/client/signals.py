"""The signals that ask this process to end, while it waits for an instance: one is news, the next one hurries."""

from __future__ import annotations

import queue
import signal
import threading
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Impatience(BaseException):
    """Raised by a signal: whoever has sent it does not want to wait any longer."""


class EndingSignals:
    """A context manager: within it, signals that ask this process to end come here, in place of what is set for them.

    In the main thread only, which is where Python handles signals; in another one nothing changes. A signal that is
    ignored stays so, as nohup or a shell's ``&`` has wanted it; a SIGHUP that has a meaning for the program keeps that.

    Args:
        impatient: whether the first one already raises :class:`Impatience`; otherwise :meth:`wait` returns it.
    """

    def __init__(self, *, impatient: bool) -> None:
        self.impatient = impatient
        self._news: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> EndingSignals:
        if threading.current_thread() is threading.main_thread():
            for signum in ENDING:
                handler = signal.getsignal(signum)
                if handler is signal.SIG_IGN or handler is None or (signum == signal.SIGHUP and callable(handler)):
                    continue
                self._before[signum] = handler
                signal.signal(signum, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        self.impatient = False
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def wait(self) -> int | None:
        """The next signal, or None once :meth:`tell` was called."""
        return self._news.get()

    def tell(self) -> None:
        """Have :meth:`wait` return; from any thread."""
        self._news.put(None)

    def _take(self, signum: int, frame: FrameType | None) -> None:
        if self.impatient:
            self.impatient = False  # once: what is done about it is not to be interrupted
            raise Impatience
        self._news.put(signum)  # which may interrupt a get() of the same queue
