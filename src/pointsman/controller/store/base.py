"""What a store must do, and its use from the controller's loop: on one thread, so that a slow disk blocks nobody."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

from pointsman.controller.state import Desired
from pointsman.controller.store import Loaded, StoreError

log = logging.getLogger(__name__)

#: A copy is made this long after the first commit that it lacks, so that a burst of changes costs one copy.
COPY_AFTER_S = 1.0
#: Or, if that is later, after so many times as long as the last copy took: it is of the whole state, and commits wait.
COPY_SHARE = 20


class DurableStore(Protocol):
    """Keeps the desired state; for the methods see :class:`~pointsman.controller.store.Store`."""

    def open(self) -> Loaded: ...

    def commit(
        self,
        desired: Desired,
        *,
        reply_to: str = "",
        reply: bytes = b"",
        codes: Sequence[bytes] = (),
        acknowledged: bool = True,
    ) -> None: ...

    def blob(self, digest: str) -> bytes: ...

    def copy(self) -> None: ...

    def close(self) -> None: ...


class DurableState:
    """Commits one state after the other.

    Args:
        store: an open store.
        on_commit: called with each state once it is durable.
    """

    def __init__(self, store: DurableStore, on_commit: Callable[[Desired], None]) -> None:
        self._store = store
        self._on_commit = on_commit
        self._copying: asyncio.TimerHandle | None = None
        self._copy_took_s = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pointsman-store")

    async def commit(
        self, new: Desired, *, reply_to: str = "", reply: bytes = b"", codes: Sequence[bytes] = ()
    ) -> None:
        """Return when a state is durable.

        Raises:
            StoreError: it could not be written; nothing has changed.
        """
        await self._run(partial(self._store.commit, new, reply_to=reply_to, reply=reply, codes=codes))
        self._on_commit(new)
        self.copy_soon()

    def copy_soon(self) -> None:
        """Update the store's copy, at most once a second and for a twentieth of the time."""
        if self._copying is None:
            after_s = max(COPY_AFTER_S, COPY_SHARE * self._copy_took_s)
            loop = asyncio.get_running_loop()
            self._copying = loop.call_later(after_s, lambda: self._thread.submit(self._copy))

    def _copy(self) -> None:
        """Runs on the store's thread."""
        self._copying, began = None, time.monotonic()
        try:
            self._store.copy()
        except StoreError as error:
            log.warning("%s", error)
        self._copy_took_s = time.monotonic() - began

    async def code(self, digest: str) -> bytes:
        """The stored code with that digest."""
        return bytes(await self._run(partial(self._store.blob, digest)))

    async def aclose(self) -> None:
        if self._copying is not None:
            self._copying.cancel()
            await self._run(self._copy)
        await self._run(self._store.close)
        self._thread.shutdown()

    async def note(self, new: Desired) -> None:
        """Return when a state is durable which nobody is told of, such as what a rollout was judged by. It makes no
        copy: were the database lost, the copy would lack that and nothing else.

        Raises:
            StoreError: it could not be written; nothing has changed.
        """
        await self._run(partial(self._store.commit, new, acknowledged=False))
        self._on_commit(new)

    async def _run(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)
