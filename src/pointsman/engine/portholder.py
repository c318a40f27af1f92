"""Says who listens on a port that is in use, as far as the system tells: the instance, or the process of this user."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from pointsman.engine.local.folder import all_abouts, shown_name

PROC = Path("/proc")
MAX_COMMAND = 100
_LISTENING = "0A"


def holder_of(port: int) -> str:
    """Who listens on a TCP port: ``instance 'shop' (process 7)`` or ``process 7 (python server.py)``; empty if that is
    not known, as of other users' processes."""
    try:
        for about in all_abouts():
            if port in (about.http_port, about.metrics_port, urlsplit(about.console).port):
                return f"instance {shown_name(about)!r} (process {about.pid})"
        inodes = {inode for name in ("tcp", "tcp6") for inode in _inodes(_text(PROC / "net" / name), port)}
        pid = next(_holding(inodes), None) if inodes else None
        return f"process {pid} ({_command(pid)})" if pid is not None else ""
    except OSError:
        return ""


def _inodes(table: str, port: int) -> set[str]:
    """Inodes of the sockets that listen on a port, from the text of ``/proc/net/tcp``."""
    found = set()
    for line in table.splitlines()[1:]:
        words = line.split()
        if len(words) > 9 and words[3] == _LISTENING and int(words[1].rpartition(":")[2], 16) == port:
            found.add(words[9])
    return found


def _holding(inodes: set[str]) -> Iterator[int]:
    """Processes that have one of these sockets, the oldest first."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for pid in sorted(int(entry) for entry in os.listdir(PROC) if entry.isdigit()):
        try:
            links = [os.readlink(entry.path) for entry in os.scandir(PROC / str(pid) / "fd")]
        except OSError:
            continue  # another user's, or it has just ended
        if not wanted.isdisjoint(links):
            yield pid


def _command(pid: int) -> str:
    words = _text(PROC / str(pid) / "cmdline").split("\0")
    line = " ".join(filter(None, words)) or _text(PROC / str(pid) / "comm").strip()
    line = "".join(character if character.isprintable() else "?" for character in line)
    return line if len(line) <= MAX_COMMAND else f"{line[: MAX_COMMAND - 3]}..."


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""
