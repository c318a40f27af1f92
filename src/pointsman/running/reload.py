"""Loads code anew whenever the user's own source files have changed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pointsman.exceptions import ServeException
from pointsman.running.files import Snapshot, folders_below

#: Changes that come within this many milliseconds of each other are one; a burst ends after ``BURST_MS``.
QUIET_MS = 50
BURST_MS = 400
#: The files are looked at this often, in milliseconds, also if the system tells nothing: a folder may be new.
POLL_MS = 500


def import_watchfiles() -> Any:
    """The package watchfiles.

    Raises:
        ServeException: it is not installed.
    """
    try:
        import watchfiles
    except ImportError:
        raise ServeException("--reload needs the package watchfiles: pip install watchfiles") from None
    return watchfiles


def follow(look: Callable[[], Snapshot], seen: Snapshot, wakes: Iterable[object], load: Callable[[], None]) -> None:
    """Call ``load`` when files have changed, and once more if they have changed again while it ran.

    Args:
        look: returns the files as they are now.
        seen: the files that are loaded already.
        wakes: yields whenever files may have changed.
    """
    for _ in wakes:
        while (now := look()) != seen:
            seen = now
            load()


def watch(roots: Sequence[str], stop: threading.Event) -> Iterator[object]:
    """Yields when files in folders, or in those below them, may have changed, until ``stop`` is set. Folders of
    packages and of virtual environments are not watched: they may be huge."""
    watchfiles = import_watchfiles()
    while not stop.is_set():
        folders = _below(roots)
        changes = watchfiles.watch(
            *folders,
            watch_filter=None,
            recursive=False,
            debounce=BURST_MS,
            step=QUIET_MS,
            stop_event=stop,
            rust_timeout=POLL_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
            ignore_permission_denied=True,
        )
        try:
            for change in changes:
                yield change
                if _below(roots) != folders:
                    break
        except (FileNotFoundError, OSError):
            stop.wait(POLL_MS / 1000)  # a folder was removed just before it was to be watched
            yield None


def _below(roots: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(folder for root in roots for folder in folders_below(root)))
