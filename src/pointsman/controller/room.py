"""Changes that need room: look at what is free first, and wait for nodes where the cluster can grow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pointsman.controller.state import NoRoomError
from pointsman.engine.base import Engine
from pointsman.exceptions import ServeException
from pointsman.wire.commands import Change, CreateBackend, Deploy, UpdateBackendConfig

LOOK_AGAIN_S = 0.5
GROUP_LAG_S = 2.0
"""How long a placement group may exist before the cluster shows what it has reserved."""
LOOK_TIMEOUT_S = 3.0
"""A cluster whose head does not answer must not hold up the answer to a change."""


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
            ServeException: the cluster does not say what is free; nothing has changed.
        """
        if not isinstance(command, (CreateBackend, UpdateBackendConfig, Deploy)):
            return await change()
        loop = asyncio.get_running_loop()
        began = loop.time()
        asked = False
        try:
            while True:
                await self._look()
                try:
                    return await change()
                except NoRoomError as error:
                    in_group = bool(error.resources.placement.group)
                    deadline = began + max(self._wait_s, GROUP_LAG_S if in_group else 0.0)
                    if loop.time() >= deadline:
                        raise
                    if not in_group:  # more nodes do not make a group larger
                        self._engine.ask_for(error.resources, error.count)
                        asked = True
                await asyncio.sleep(min(LOOK_AGAIN_S, max(0.0, deadline - loop.time())))
        finally:
            if asked:
                self._engine.ask_for(None, 0)

    async def _look(self) -> None:
        try:
            await asyncio.wait_for(self._engine.refresh(), LOOK_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise ServeException(
                f"the cluster did not say within {LOOK_TIMEOUT_S:g} s what is free on its nodes, so nothing was changed"
            ) from None
