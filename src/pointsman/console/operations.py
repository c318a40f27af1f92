"""Changes that are under way: they run in threads of their own, and go on when nobody waits any more.

These threads, and those that read, hold up no end of the process, as those of a pool do.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple, ParamSpec, TypeVar

from pointsman.console.problems import Problem
from pointsman.console.table import PREFIX

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

MOST_CHANGES = 16
"""That run at once."""
MOST_WAITING = 300
"""Questions that wait for their answers or their turn."""
KEPT = 200
"""Changes whose end is remembered, and keys of changes."""
WAIT_S = 60.0


class Lasting(NamedTuple):
    """A change that goes on, in the place of its result."""

    name: str

    @property
    def location(self) -> str:
        """The path at which its result will be."""
        return f"{PREFIX}/operations/{self.name}"

    def as_json(self) -> dict[str, str]:
        """What is answered until then."""
        return {"id": self.name, "state": "running"}


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

    async def run(self, change: Callable[[], Any]) -> Any:
        """Carry out a change; returns its result, or a :class:`Lasting`.

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
            return future.result()
        name = secrets.token_hex(8)
        self._known[name] = future
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return Lasting(name)

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

    def result(self, name: str) -> Any:
        """What a change that lasted has answered; the same as at first while it goes on.

        Raises:
            Problem: 404 for one that is not known.
            Exception: as the change.
        """
        future = self._known.get(name)
        if future is None:
            raise Problem(404, f"no change {name!r:.60} is known here; it may have ended long ago")
        return future.result() if future.done() else Lasting(name)

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._running.discard(future)
        future.exception()  # it is read here, so that asyncio does not complain of one that nobody waits for


class Threads:
    """Runs functions in threads, so many at once.

    Args:
        name: of the threads.
        most: how many at once; others wait for their turn, if these are not too many.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._waiting = 0
        self._turns = asyncio.Semaphore(most)

    async def run(self, function: Callable[[], Any]) -> Any:
        """What a function returns or raises.

        Raises:
            Problem: 503 if too many wait.
        """
        if self._waiting >= MOST_WAITING:
            raise Problem(503, "too much is asked for at once; try again later", {"retry-after": "1"})
        self._waiting += 1
        try:
            async with self._turns:
                return await begun(function, self._name)
        finally:
            self._waiting -= 1


class OneThread(Executor):
    """Runs functions one after the other in a thread, which does not hold up the end of the process.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._orders: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, function: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> Future[T]:
        """Run a function when those before it have ended."""
        future: Future[T] = Future()
        self._orders.put((future, partial(function, *args, **options)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the thread once it has done what was submitted. Waits for nothing."""
        self._orders.put(None)

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            future, function = order
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - handed on to whoever waits
                future.set_exception(error)


def begun(function: Callable[[], Any], name: str) -> asyncio.Future[Any]:
    """A function that runs in a thread of its own from now on, as a future of the running loop."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def finish(result: Any, error: BaseException | None) -> None:
        if future.done():  # nobody waits any more
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def work() -> None:
        result, failure = None, None
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - handed on to whoever waits
            failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
        try:
            loop.call_soon_threadsafe(finish, result, failure)
        except RuntimeError:
            pass  # the loop has ended, and with it whoever waited

    threading.Thread(target=work, name=name, daemon=True).start()
    return future
