"""Threads for what blocks. They hold up no end of the process, as those of a pool do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any


class Threads:
    """Runs functions in threads, so many at once.

    Args:
        name: of the threads.
        most: how many at once; others wait for their turn.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._turns = asyncio.Semaphore(most)

    async def run(self, function: Callable[[], Any]) -> Any:
        """What a function returns or raises."""
        async with self._turns:
            return await begun(function, self._name)


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
