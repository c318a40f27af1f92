"""How far replicas have come, on one line of the terminal; nothing where there is no terminal."""

from __future__ import annotations

import sys
from types import TracebackType

from pointsman.wire.commands import Progress


class ProgressLine:
    """A line that is written over as replicas become ready; a context manager that ends it."""

    def __init__(self) -> None:
        self._shown = False

    def __enter__(self) -> ProgressLine:
        return self

    def show(self, progress: Progress) -> None:
        """Show "3/10 replicas ready"."""
        if sys.stderr is not None and sys.stderr.isatty():
            bar = "█" * round(20 * progress.ready / max(1, progress.wanted))
            text = f"\r{progress.backend}: {bar:░<20} {progress.ready}/{progress.wanted} replicas ready "
            sys.stderr.write(text)
            sys.stderr.flush()
            self._shown = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._shown:
            sys.stderr.write("\n")
            sys.stderr.flush()
