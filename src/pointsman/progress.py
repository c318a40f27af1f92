"""Progress of long operations, on one line of the terminal. Prints nothing if standard error is no terminal."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from pointsman.wire.commands import Progress

if TYPE_CHECKING:
    from rich.status import Status


class ProgressLine:
    """A context manager for a line that is rewritten as replicas become ready, and removed on exit.

    Other processes print on the same terminal, so the cursor is left where the line begins: what they print
    replaces it.
    """

    def __init__(self) -> None:
        self._shown = False

    def __enter__(self) -> ProgressLine:
        return self

    def show(self, progress: Progress) -> None:
        """Show progress such as "3/10 replicas ready"."""
        if sys.stderr is not None and sys.stderr.isatty():
            full, empty = _marks(sys.stderr.encoding)
            bar = (full * round(20 * progress.ready / max(1, progress.wanted))).ljust(20, empty)
            text = f"\r{progress.backend}: {bar} {progress.ready}/{progress.wanted} replicas ready\x1b[K\r"
            sys.stderr.write(text)
            sys.stderr.flush()
            self._shown = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _marks(encoding: str | None) -> tuple[str, str]:
    """What a bar is drawn with. Standard error shows what its encoding lacks as escapes of six characters each."""
    try:
        "█░".encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return "#", "-"
    return "█", "░"


class Activity:
    """A context manager for a line that says what is being done and for how long, and is removed on exit. Threads
    other than the main one get no line, since there is one terminal.

    Attributes:
        title: what is being done; may be changed.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._status: Status | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Activity:
        if sys.stderr is not None and sys.stderr.isatty() and threading.current_thread() is threading.main_thread():
            from rich.console import Console

            self._status = Console(stderr=True).status("")
            self._status.start()
            self.show("")
        return self

    def show(self, detail: str) -> None:
        """Show the newest detail behind the title."""
        if self._status is not None:
            from rich.text import Text

            seconds = f"{time.monotonic() - self._began:.0f} s"
            text = Text(f"{self.title} ({seconds}) {detail}", no_wrap=True, overflow="ellipsis")
            self._status.update(text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
