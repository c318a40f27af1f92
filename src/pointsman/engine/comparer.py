"""The router's end of the process that compares answers beside it (decision 0080): starts it, and writes to it.

Everything here is on the router's loop and returns at once. What cannot be written waits, within a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from pointsman.model import Comparison
from pointsman.usercode.paths import PATH_VARIABLE, python_path
from pointsman.wire.pairs import MAX_WAITING, Began, Ended, Missed, Pair, Sides, packed

log = logging.getLogger("pointsman")

FLUSH_S = 0.1
"""Pairs wait so long for others: each write wakes the process, which takes time from others."""
FLUSH_BYTES = 256 * 1024
"""So many are written at once, and without a turn of the loop between."""
AGAIN_S = 1.0
"""The process is started once in so many seconds at most."""
END_S = 1.0
"""How long the process may take to end."""
POLL_S = 0.01
AT_ONCE = 64
"""Messages in one write."""


class Subject(Protocol):
    """What is compared."""

    @property
    def endpoint(self) -> str: ...

    @property
    def backend(self) -> str: ...

    @property
    def comparison(self) -> Comparison: ...


class _Process(subprocess.Popen[bytes]):
    """It ends with its socket, and is reaped when the next one starts: nobody waits for it."""

    def __del__(self) -> None:
        pass


class Comparer:
    """Has pairs of answers compared.

    Args:
        folder: of the counts; on this node.
        log_format: of what the process logs, which goes where this process's log goes.
    """

    def __init__(self, folder: Path, log_format: str = "text") -> None:
        self._folder = folder
        self._log_format = log_format
        self._loop = asyncio.get_running_loop()
        self._subjects: dict[str, Began] = {}
        self._numbers: dict[int, Began] = {}
        self._newest = 0
        self._announced: set[int] = set()
        self._missed: Counter[tuple[int, Sides, str]] = Counter()
        self._pairs: deque[tuple[int, Callable[[], Pair | Ended]]] = deque()
        """By the number of the comparison, not yet made."""
        self._ready = 0
        self._out: deque[memoryview] = deque()
        """Is being written."""
        self._held = self._waiting = 0
        self._socket: socket.socket | None = None
        self._process: _Process | None = None
        self._started_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        self._blocked = self._closed = False

    # PairSink

    def hold(self, size: int) -> bool:
        if self._held + self._waiting + size > MAX_WAITING:
            return False
        self._held += size
        return True

    def release(self, size: int) -> None:
        self._held -= size

    def number(self, subject: Subject) -> int:
        found = self._subjects.get(subject.comparison.name)
        if found is None:
            self.forget(subject.endpoint, subject.backend)
            self._newest += 1
            found = Began(self._newest, subject.endpoint, subject.backend, subject.comparison)
            self._subjects[subject.comparison.name] = self._numbers[found.number] = found
        return found.number

    def forget(self, endpoint: str, backend: str) -> None:
        for name, other in list(self._subjects.items()):
            if (other.endpoint, other.backend) == (endpoint, backend):
                del self._subjects[name], self._numbers[other.number]
                if other.number in self._announced:
                    self._pairs.append((other.number, partial(Ended, other.number)))
                    self._flush_later()

    def compare(self, number: int, size: int, make: Callable[[], Pair]) -> None:
        self._pairs.append((number, make))
        self._ready += size
        if self._ready > FLUSH_BYTES and self._socket is not None and not self._blocked:
            self._flush()
        else:
            self._flush_later()

    def missed(self, number: int, sides: Sides, reason: str) -> None:
        self._missed[number, sides, reason] += 1
        self._flush_later()

    async def aclose(self) -> None:
        """End the process, once it has compared what there was room for in its socket, or after a second."""
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None and not self._blocked:
            self._flush()
        self._closed = True
        self._let_go()
        deadline = self._loop.time() + END_S
        while self._process is not None and self._process.poll() is None:
            if self._loop.time() >= deadline:
                self._process.kill()
                deadline += END_S
            await asyncio.sleep(POLL_S)

    def _flush_later(self, delay_s: float = FLUSH_S) -> None:
        if self._timer is None and not self._blocked and not self._closed:
            self._timer = self._loop.call_later(delay_s, self._flush)

    def _flush(self) -> None:
        """Write what there is. Nothing comes here while the socket is full."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is None and not self._start():
            self._flush_later(AGAIN_S)
            return
        missed, self._missed = self._missed, Counter()
        for (number, sides, reason), count in missed.items():
            self._add(number, packed(Missed(number, sides, reason, count)))
        self._ready = 0
        while self._pairs and self._waiting <= FLUSH_BYTES:
            number, make = self._pairs.popleft()
            data = packed(make())
            self._waiting += len(data)
            self._add(number, data)
        if not self._pairs:
            self._announced &= self._numbers.keys()  # of others nothing is written any more
        self._write()
        if self._pairs:
            self._flush_later(0.0)

    def _add(self, number: int, data: bytes) -> None:
        if number not in self._announced:
            if number not in self._numbers:
                return
            self._announced.add(number)
            self._out.append(memoryview(packed(self._numbers[number])))
        self._out.append(memoryview(data))

    def _write(self) -> None:
        connection, out = self._socket, self._out
        if connection is None:
            return
        written = 0
        try:
            while out:
                if written > FLUSH_BYTES:
                    raise BlockingIOError  # others of the loop are next
                sent = connection.sendmsg([out[place] for place in range(min(len(out), AT_ONCE))])
                written += sent
                self._waiting = max(0, self._waiting - sent)
                while sent:
                    if sent < len(out[0]):
                        out[0] = out[0][sent:]
                        break
                    sent -= len(out.popleft())
        except BlockingIOError:
            if not self._blocked:
                self._blocked = True
                self._loop.add_writer(connection, self._write)
            return
        except OSError:
            self._lost()
            return
        self._waiting = 0
        if self._blocked:
            self._blocked = False
            self._loop.remove_writer(connection)
            if self._pairs or self._missed:
                self._flush_later(0.0)

    def _start(self) -> bool:
        if self._closed or self._loop.time() < self._started_at + AGAIN_S:
            return False
        self._started_at = self._loop.time()
        ours, theirs = socket.socketpair()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # Ctrl-C is for this process alone
        try:
            self._process = _Process(
                [sys.executable, "-m", "pointsman.comparer", str(theirs.fileno()), str(self._folder), self._log_format],
                stdin=subprocess.DEVNULL,
                cwd="/",  # so that no module in the user's working directory shadows one that we import
                env={**os.environ, PATH_VARIABLE: python_path()},
                pass_fds=(theirs.fileno(),),
            )
        except OSError as error:
            log.warning("the process that compares shadows' answers could not be started: %s", error)
            ours.close()
            return False
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        ours.setblocking(False)
        self._socket = ours
        self._loop.add_reader(ours, self._read)
        return True

    def _read(self) -> None:
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            try:
                data = self._socket.recv(4096)
            except ConnectionError:
                data = b""
            if not data:
                self._lost()

    def _lost(self) -> None:
        """The process has ended. What was given to it is not compared, and not counted."""
        log.warning("the process that compares shadows' answers has ended, and is started again")
        self._let_go()
        if self._pairs or self._missed:
            self._flush_later(AGAIN_S)

    def _let_go(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            self._loop.remove_reader(connection)
            if self._blocked:
                self._loop.remove_writer(connection)
            connection.close()
        if self._process is not None:
            self._process.poll()
        self._blocked = False
        self._out.clear()
        self._announced.clear()
        self._waiting = 0
