"""Keeps the descriptors 0, 1 and 2 of this process open, which some parents leave closed.

A new descriptor gets the lowest free number. A socket of ours with the number of standard error would receive what code
writes to standard error, could not be passed to a child process, and makes libuv abort when it closes one.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

LAST_STANDARD = 2


def keep_standard_descriptors() -> None:
    """Open the null device at those of 0, 1 and 2 that are closed, so that no other file gets these numbers.

    They stay open: otherwise the next connection would get the number. Called before the first descriptor of ours is
    opened, and again before each connection, since a program may close them at any time.
    """
    while any(not _is_open(number) for number in range(LAST_STANDARD + 1)):
        lowest = os.open(os.devnull, os.O_RDWR)
        if lowest > LAST_STANDARD:  # another thread has opened it meanwhile
            os.close(lowest)
            return
        os.set_inheritable(lowest, True)


def is_for_output(stream: TextIO | None) -> bool:
    """True if a child process may inherit ``sys.__stdout__`` or ``sys.__stderr__`` of this process.

    Not if its descriptor was closed when this process began: by now the number may be that of another file.
    """
    return stream is not None and not stream.closed


def give_standard_streams() -> None:
    """Set ``sys.stdout`` and ``sys.stderr`` to the null device where they are None. For programs."""
    keep_standard_descriptors()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
