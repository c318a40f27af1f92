"""Many connections to one server, waited for in microseconds: a selector alone waits in whole milliseconds."""

from __future__ import annotations

import resource
import select
import selectors
import ssl
import time
from collections.abc import Sequence

import httptools

from pointsman.load.connection import CLOSED, MALFORMED, TIMEOUT, Connection, kind_of
from pointsman.load.tally import Ended
from pointsman.load.target import Place

SCAN_S = 0.1
BOTH = selectors.EVENT_READ | selectors.EVENT_WRITE
SPARE_FILES = 64
MILLISECOND, COARSE_S = 0.001, 0.003


def room_for_connections(wanted: int) -> int:
    """How many of them the limit of open files allows, which is raised for it as far as this user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(1, min(wanted, soft - SPARE_FILES))
    return wanted


class Sockets:
    """A network of connections that are opened when they are needed and kept.

    Args:
        name: to check a certificate against.
        most: number of connections at most.
        headless: whether answers have no body whatever they say, as those to HEAD.
    """

    def __init__(self, place: Place, tls: ssl.SSLContext | None, name: str, *, most: int, headless: bool) -> None:
        self._place, self._tls, self._name, self._most, self._headless = place, tls, name, most, headless
        self._selector = selectors.DefaultSelector()
        self._waited_for = [self._selector]
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._over: list[Ended] = []
        self._began, self._scan_at = time.perf_counter(), 0.0

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            key.data.close()
        self._selector.close()

    def now(self) -> float:
        return time.perf_counter() - self._began

    def under_way(self) -> int:
        return len(self._busy) + len(self._over)

    def ask(self, request: bytes, due: float) -> bool:
        """Send a request now, or once there is a connection; False if no connection is free and none may be added."""
        if self._idle:
            connection = self._idle.pop()
        elif len(self._busy) < self._most:
            try:
                connection = Connection(self._place, self._tls, self._name, headless=self._headless)
            except OSError as error:
                self._over.append(Ended(due, self.now(), 0, kind_of(error)))
                return True
            self._selector.register(connection.fd, BOTH, connection)
        else:
            return False
        self._busy.add(connection)
        writing = connection.wants_to_write
        try:
            connection.ask(request, due)
        except OSError as error:
            self._fail(connection, kind_of(error))
            return True
        if connection.wants_to_write and not writing:
            self._selector.modify(connection.fd, BOTH, connection)
        return True

    def wait(self, until: float) -> Sequence[Ended]:
        """What has ended by then; returns as soon as something has, and may return early."""
        left = 0.0 if self._over else until - self.now()
        if 0 < left < COARSE_S and not select.select(self._waited_for, [], [], left)[0]:
            return ()
        # One call where there is time enough: a selector rounds what it is to wait up to whole milliseconds
        for key, _ in self._selector.select(left - MILLISECOND if left >= COARSE_S else 0):
            self._step(key.data)
        over, self._over = self._over, []
        return over

    def expire(self, before: float) -> Sequence[Ended]:
        """Give up what was due before that; looked at ten times a second."""
        now = self.now()
        if now < self._scan_at:
            return ()
        self._scan_at = now + SCAN_S
        old = [connection for connection in self._busy if connection.due < before]
        for connection in old:
            self._drop(connection)
        return [Ended(connection.due, now, 0, TIMEOUT) for connection in old]

    def _step(self, connection: Connection) -> None:
        if connection.fd < 0:
            return  # dropped since the selector has seen it
        writing, error = connection.wants_to_write, ""
        try:
            connection.step()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            error = MALFORMED
        except OSError as problem:
            error = kind_of(problem)
        if writing is not connection.wants_to_write:
            self._selector.modify(connection.fd, selectors.EVENT_READ if writing else BOTH, connection)
        if connection.complete:
            self._finish(connection, keep=not error and connection.keeps)
        elif error:
            self._fail(connection, error)

    def _finish(self, connection: Connection, *, keep: bool) -> None:
        self._over.append(Ended(connection.due, self.now(), connection.status, connection.backend))
        if not keep or connection.wants_to_write:
            self._drop(connection)
            return
        connection.busy = connection.complete = False
        self._busy.discard(connection)
        self._idle.append(connection)

    def _fail(self, connection: Connection, error: str) -> None:
        """Nothing is lost with a connection that has no request: servers close those that are idle."""
        if connection.busy:
            self._over.append(Ended(connection.due, self.now(), 0, error or CLOSED))
        self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        self._busy.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._selector.unregister(connection.fd)
        connection.close()
