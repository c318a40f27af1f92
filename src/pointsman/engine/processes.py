"""What the system says of a process of this machine."""

from __future__ import annotations

from pathlib import Path


def is_stopped(pid: int) -> bool:
    """Whether a process is known to be stopped by a signal; False where that cannot be told."""
    try:
        status = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False  # it has ended, or this system has no such files
    return status.rpartition(b") ")[2][:1] in (b"T", b"t")
