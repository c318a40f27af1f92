"""The end of an instance on a cluster, in order: ingresses finish, then replicas; who does not finish is killed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pointsman.engine.ray.actors import Actors, Ending
from pointsman.engine.ray.names import replica_name
from pointsman.wire.frames import Kind

if TYPE_CHECKING:
    from pointsman.engine.ray.engine import Connections

STEP_S = 0.02
KILLED_S = 2.0


async def end_in_order(actors: Actors, peers: Connections, replicas: list[int], *, drain_s: float) -> None:
    """End every process of the instance; each kind has ``drain_s`` seconds to finish."""
    mine = {replica_name(number) for number in replicas}
    peers.tell_ingresses(Kind.STOP)
    await _end(actors, [name for name in actors.names if name not in mine], drain_s)
    for number in replicas:
        peers.tell_replica(number, Kind.STOP, b"")
    await _end(actors, actors.names, drain_s)


async def _end(actors: Actors, names: list[str], drain_s: float) -> None:
    if not await _are_gone(actors, names, drain_s):
        for name in names:
            actors.kill(name)
        if not await _are_gone(actors, names, KILLED_S):
            for name in names:
                actors.give_up(name, Ending("killed"))


async def _are_gone(actors: Actors, names: list[str], limit_s: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while any(actors.is_known(name) for name in names):
        if loop.time() >= deadline:
            return False
        await asyncio.sleep(STEP_S)
    return True
