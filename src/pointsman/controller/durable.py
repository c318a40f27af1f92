"""The store on a thread of its own, so that a slow disk holds nobody up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from pointsman.controller.state import Desired
from pointsman.controller.store import Store


class DurableState:
    """Commits one state after the other.

    Args:
        store: opened already.
        on_commit: told of each state once it is on disk.
    """

    def __init__(self, store: Store, on_commit: Callable[[Desired], None]) -> None:
        self._store = store
        self._on_commit = on_commit
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pointsman-store")

    async def commit(self, new: Desired, *, reply_to: str = "", reply: bytes = b"", blob: bytes = b"") -> None:
        """Return when a state is on disk.

        Raises:
            StoreError: it is not, and nothing has changed.
        """
        write = partial(self._store.commit, new, reply_to=reply_to, reply=reply, blob=blob)
        writing = asyncio.ensure_future(self._run(write))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            # The client has gone, but the write cannot be called back: memory must follow the disk.
            await writing
            self._on_commit(new)
            raise
        self._on_commit(new)

    async def code(self, digest: str) -> bytes:
        """A stored blob."""
        return bytes(await self._run(partial(self._store.blob, digest)))

    async def aclose(self) -> None:
        await self._run(self._store.close)
        self._thread.shutdown()

    async def _run(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)
