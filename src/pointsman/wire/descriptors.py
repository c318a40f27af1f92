"""The descriptors 0, 1 and 2 of this process, which some parents leave closed.

What is opened next gets the lowest free number. A socket of ours with the number of standard error would be written to
by whoever means standard error, would not get through to a child process, and libuv aborts when it is to close one.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

LAST_STANDARD = 2


def keep_standard_descriptors() -> None:
    """Open the null device at those of 0, 1 and 2 that are closed, so that nothing else gets these numbers.

    For good: the number of a connection that is made later would be free again otherwise. Called before anything of
    ours is opened, and again before each connection, since a program may close them at any time.
    """
    while any(not _is_open(number) for number in range(LAST_STANDARD + 1)):
        lowest = os.open(os.devnull, os.O_RDWR)
        if lowest > LAST_STANDARD:  # another thread was faster
            os.close(lowest)
            return
        os.set_inheritable(lowest, True)


def is_for_output(stream: TextIO | None) -> bool:
    """Whether a child process may inherit a standard stream of this process: ``sys.__stdout__`` or ``sys.__stderr__``.

    Not one whose descriptor was closed when this process began. By now the number may belong to a file of its user.
    """
    return stream is not None and not stream.closed


def give_standard_streams() -> None:
    """For a program: make ``sys.stdout`` and ``sys.stderr`` lead nowhere where Python has none to give."""
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
