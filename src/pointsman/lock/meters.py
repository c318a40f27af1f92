"""How much a key may still do: requests per second, and requests under way. Pure; the time is given.

The numbers are in cells that the HTTP servers of a node share, so that a rate holds for all of them together, however a
client's connections fall to them:

    cell 0        when the next request would be due, were all of them evenly spaced (the generic cell rate algorithm)
    cell 1 + n    requests under way in HTTP server n, which alone writes it

Nothing is locked. Two servers that write cell 0 at the same moment lose one request of the count, which is rare, and
within the tenth that rates are promised to; a lock that a suspended server holds would stop the others.
"""

from __future__ import annotations

from collections.abc import MutableSequence

from pointsman.lock.keys import KeySpec


class Meter:
    """Counts the requests of one key in one HTTP server.

    Args:
        cells: see the module; shared.
        own: number of this server.
    """

    __slots__ = ("_cells", "_interval", "_max_in_flight", "_own", "_slack")

    def __init__(self, spec: KeySpec, cells: MutableSequence[float], own: int) -> None:
        self._cells = cells
        self._own = 1 + own
        self._max_in_flight = spec.max_in_flight
        self._interval = 0.0 if spec.rate is None else 1.0 / spec.rate
        self._slack = (spec.burst - 1) * self._interval

    def begin(self, now: float) -> float:
        """Count a request that begins now.

        Args:
            now: in seconds, by a clock that all servers of the node share.

        Returns:
            0 if it may; else, in seconds, after how long another try may succeed. Nothing was counted then.
        """
        cells = self._cells
        if self._max_in_flight is not None and sum(cells[1:]) >= self._max_in_flight:
            return 1.0
        if self._interval:
            due = cells[0]
            early = due - self._slack - now
            if early > 0:
                if early > self._interval:  # counted by an older, slower rate of this key
                    early = self._interval
                    cells[0] = now + self._slack + early
                return early
            cells[0] = (due if due > now else now) + self._interval
        cells[self._own] += 1.0
        return 0.0

    def end(self) -> None:
        """A request that was counted is over."""
        cells, own = self._cells, self._own
        if cells[own] > 0:
            cells[own] -= 1.0
