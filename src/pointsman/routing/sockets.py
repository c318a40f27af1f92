"""WebSockets on their way to a replica: they take places of their own, beside those of calls.

A socket stays where it is for as long as it is open, so it goes to the replica that has the fewest. Where all have as
many as they take, it is refused at once: nobody knows when one will end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pointsman.exceptions import BackpressureError
from pointsman.model import BackendRoute
from pointsman.routing.call import Call
from pointsman.routing.refusals import is_refused, not_starting


class Candidate(Protocol):
    @property
    def sockets(self) -> int: ...

    @property
    def open(self) -> bool: ...

    def send(self, call: Call) -> None: ...


class SocketPlaces:
    """Places the sockets of one router on the replicas of one backend.

    Attributes:
        waiting: sockets for which no replica is there now.
        prefer: which of the replicas with a place are best for a socket; None where all are.
    """

    def __init__(self) -> None:
        self.waiting: deque[Call] = deque()
        self.prefer: Callable[[Call, list[Any]], list[Any]] | None = None

    def place(self, call: Call, candidates: Sequence[Candidate], route: BackendRoute) -> None:
        """Send a socket to a replica, or keep it until there is one.

        Raises:
            BackpressureError: all replicas have as many as they take, too many wait, or no replica starts.
        """
        try:
            if is_refused(route):
                raise not_starting(route)
            if not self._send(call, candidates, route):
                if len(self.waiting) >= route.max_queued_queries:
                    raise _full(f"{len(self.waiting)} WebSockets already wait", route)
                self.waiting.append(call)
        except BackpressureError:
            call.disarm()
            raise

    def place_waiting(self, candidates: Sequence[Candidate], route: BackendRoute) -> None:
        """Place those that wait, now that a replica may be there. They fail where all are full."""
        for _ in range(len(self.waiting)):
            call = self.waiting.popleft()
            try:
                if not call.is_over() and not self._send(call, candidates, route):
                    self.waiting.append(call)
            except BackpressureError as error:
                call.fail(error)

    def _send(self, call: Call, candidates: Sequence[Candidate], route: BackendRoute) -> bool:
        open_ones = [one for one in candidates if one.open]
        free = [one for one in open_ones if one.sockets < route.max_websockets and not call.was_refused_by(one)]
        if free and self.prefer is not None:
            free = self.prefer(call, free)
        if free:
            min(free, key=lambda one: one.sockets).send(call)
        elif open_ones:
            raise _full(f"all replicas have {route.max_websockets} WebSockets, their max_websockets", route)
        return bool(free)


def _full(why: str, route: BackendRoute) -> BackpressureError:
    return BackpressureError(f"{why}, of backend {route.tag!r}", retry_after=1.0)
