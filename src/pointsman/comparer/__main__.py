"""Compares what a router's process sends until that has ended.

argv: the socket, the folder of the counts, the format of logs
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path

from pointsman.comparer.subject import Subject
from pointsman.engine.limited import limit_memory
from pointsman.telemetry import logs
from pointsman.wire.pairs import Began, Ended, Message, Unpacker

log = logging.getLogger("pointsman.comparer")

LOOK_S = 1.0
"""How often it looks whether the router's process is still there: a process that user code has forked there may hold
its end of the socket."""
AGAIN_S = 1.0
"""A comparison that cannot be counted is tried once in so many seconds at most."""
NICE = 10


class Work:
    """What one router's process has had compared.

    Args:
        folder: has a folder for each comparison.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._subjects: dict[int, Subject] = {}
        self._failed: dict[int, tuple[Began, float]] = {}
        """Comparisons that could not begin, and when that was last tried."""

    def take(self, message: Message) -> None:
        """Take a message."""
        if isinstance(message, Began):
            self._begin(message)
        elif isinstance(message, Ended):
            self._failed.pop(message.number, None)
            if message.number in self._subjects:
                self._subjects.pop(message.number).close()
        else:
            if message.number in self._failed:
                self._begin_again(message.number)
            if message.number in self._subjects:
                self._subjects[message.number].take(message)

    def _begin(self, message: Began) -> None:
        try:
            self._subjects[message.number] = Subject(self._folder, message)
        except OSError as error:  # the instance ends, or the disk is full
            if message.number not in self._failed:
                log.warning("answers of shadow %r cannot be counted now: %s", message.backend, error)
            self._failed[message.number] = message, time.monotonic()
        else:
            self._failed.pop(message.number, None)

    def _begin_again(self, number: int) -> None:
        message, tried = self._failed[number]
        if time.monotonic() >= tried + AGAIN_S:
            self._begin(message)

    def close(self) -> None:
        for subject in self._subjects.values():
            subject.close()


def main() -> None:
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the router's process, which ends this one
    os.nice(NICE)
    limit_memory()  # a few bytes of JSON or of a pickle can ask for much
    logs.set_up(sys.argv[3], "comparer")
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.settimeout(LOOK_S)
    work, unpacker = Work(Path(sys.argv[2])), Unpacker()
    while os.getppid() == parent:
        try:
            data = connection.recv(1 << 18)
        except TimeoutError:
            continue
        except OSError:
            break
        if not data:
            break
        for message in unpacker.feed(data):
            work.take(message)
    work.close()


if __name__ == "__main__":
    main()
