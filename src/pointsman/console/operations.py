"""Changes that are under way: they run in threads of their own, and go on when nobody waits any more."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from pointsman.console.problems import Problem, problem_of
from pointsman.console.table import PREFIX, Versioned
from pointsman.console.threads import begun

log = logging.getLogger(__name__)

MOST_CHANGES = 16
"""That run at once."""
KEPT = 200
"""Changes whose end is remembered, and keys of changes."""
WAIT_S = 60.0


class Operations:
    """Runs changes.

    Args:
        wait_s: how long a request waits for its change.
    """

    def __init__(self, wait_s: float = WAIT_S) -> None:
        self._wait_s = wait_s
        self._running: set[asyncio.Future[Any]] = set()
        self._known: OrderedDict[str, asyncio.Future[Any]] = OrderedDict()
        self._keys: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    async def run(self, change: Callable[[], Any]) -> tuple[str, Any]:
        """Carry out a change; returns an empty id and the result, or the change's id if it lasts.

        Raises:
            Problem: 503 if too many run already.
            Exception: as the change.
        """
        if len(self._running) >= MOST_CHANGES:
            raise Problem(503, f"{MOST_CHANGES} changes are under way; try again later", {"retry-after": "5"})
        future = begun(change, "change")
        self._running.add(future)
        future.add_done_callback(self._ended)
        done, _ = await asyncio.wait({future}, timeout=self._wait_s)
        if done:
            return "", future.result()
        name = secrets.token_hex(8)
        self._known[name] = future
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return name, None

    def check_key(self, user: str, key: str, request: bytes) -> None:
        """Check the key of a change, by which it is carried out once.

        Args:
            request: what is asked, in bytes.

        Raises:
            Problem: the user has used the key for something else.
        """
        there = self._keys.setdefault((user, key), request)
        if there != request:
            raise Problem(422, f"Idempotency-Key {key[:60]!r} was used for another change; take a new one")
        self._keys.move_to_end((user, key))
        while len(self._keys) > KEPT:
            self._keys.popitem(last=False)

    def view(self, name: str) -> dict[str, Any] | None:
        """How a change that lasted stands; None if it is not known."""
        future = self._known.get(name)
        return view_of(name, future) if future is not None else None

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._running.discard(future)
        future.exception()  # it is read here, so that asyncio does not complain of one that nobody waits for


def location_of(name: str) -> str:
    """The path of a change that lasts."""
    return f"{PREFIX}/operations/{name}"


def view_of(name: str, future: asyncio.Future[Any]) -> dict[str, Any]:
    """``{"id", "state", "result", "problem"}``; ``state`` is ``running``, ``done`` or ``failed``."""
    shown: dict[str, Any] = {"id": name, "state": "running", "result": None, "problem": None}
    if not future.done():
        return shown
    error = future.exception()
    if error is not None:
        problem = problem_of(error if isinstance(error, Exception) else RuntimeError())
        return {**shown, "state": "failed", "problem": problem.as_json()}
    result = future.result()
    return {**shown, "state": "done", "result": result.value if isinstance(result, Versioned) else result}
