"""Changes that need room: look at what is free first, and wait for nodes where the cluster can grow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pointsman.controller.state import NoRoomError
from pointsman.engine.base import Engine
from pointsman.wire.commands import Change, CreateBackend, Deploy, UpdateBackendConfig

LOOK_AGAIN_S = 0.5


class RoomSeeker:
    """Carries out changes for as long as it may take to find room for them.

    Args:
        engine: knows what is free, and can ask the cluster for more.
        wait_s: how long a change may wait for nodes to join; 0 refuses at once.
    """

    def __init__(self, engine: Engine, wait_s: float) -> None:
        self._engine = engine
        self._wait_s = wait_s

    async def carry_out(self, command: Change, change: Callable[[], Awaitable[bytes]]) -> bytes:
        """Try until there is room.

        Raises:
            NoRoomError: there was none in time; nothing has changed.
        """
        if not isinstance(command, (CreateBackend, UpdateBackendConfig, Deploy)):
            return await change()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait_s
        asked = False
        try:
            while True:
                await self._engine.refresh()
                try:
                    return await change()
                except NoRoomError as error:
                    if loop.time() >= deadline:
                        raise
                    self._engine.ask_for(error.resources, error.count)
                    asked = True
                await asyncio.sleep(min(LOOK_AGAIN_S, max(0.0, deadline - loop.time())))
        finally:
            if asked:
                self._engine.ask_for(None, 0)
