"""Ends the processes of an instance on a cluster in order: ingresses, replicas, then exporters of metrics and the
console. A process that does not exit in time is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from pointsman.engine.ray.actors import ActorExit, Actors
from pointsman.engine.ray.folder import CONSOLE_PREFIX, INGRESS_PREFIX, METRICS_PREFIX
from pointsman.wire import commands
from pointsman.wire.frames import Kind
from pointsman.wire.messages import pack

STEP_S = 0.02
#: Stop orders are repeated: a process that is just reconnecting to the controller has missed the first one.
STOP_AGAIN_S = 0.25
#: How long a killed actor may take until Ray reports its exit.
KILLED_S = 2.0


class Connections(Protocol):
    """The controller's connections, as this engine uses them."""

    def send_to_replica(self, number: int, kind: Kind, head: bytes, body: bytes = b"") -> None: ...

    def send_to_ingresses(self, kind: Kind, head: bytes = b"") -> None: ...

    def is_connected(self, number: int) -> bool: ...


async def end_in_order(
    actors: Actors, peers: Connections, replicas: list[int], *, drain_s: float, delay_s: float = 0.0
) -> None:
    """End every process of the instance but the controller; each kind has ``drain_s`` seconds to exit, after ingresses
    have accepted requests for ``delay_s`` seconds more."""

    def stop_replicas() -> None:
        for number in replicas:
            peers.send_to_replica(number, Kind.STOP, b"")

    def stop_last() -> None:
        for name in last:
            actors.send(name, "end")

    ingresses = [name for name in actors.names if name.startswith(INGRESS_PREFIX)]
    last = [name for name in actors.names if name.startswith((METRICS_PREFIX, CONSOLE_PREFIX))]
    limit = pack(commands.Ending(drain_s, delay_s))
    await _end(actors, ingresses, lambda: peers.send_to_ingresses(Kind.STOP, limit), delay_s + drain_s)
    await _end(actors, [name for name in actors.names if name not in last], stop_replicas, drain_s)
    await _end(actors, last, stop_last, KILLED_S)


async def _end(actors: Actors, names: list[str], stop: Callable[[], None], drain_s: float) -> None:
    if not await _are_gone(actors, names, stop, drain_s):
        for name in names:
            actors.kill(name)
        if not await _are_gone(actors, names, lambda: None, KILLED_S):
            for name in names:
                actors.give_up(name, ActorExit("killed"))


async def _are_gone(actors: Actors, names: list[str], stop: Callable[[], None], limit_s: float) -> bool:
    loop = asyncio.get_running_loop()
    deadline, stop_at = loop.time() + limit_s, 0.0
    while any(actors.is_known(name) for name in names):
        now = loop.time()
        if now >= deadline:
            return False
        if now >= stop_at:
            stop()
            stop_at = now + STOP_AGAIN_S
        await asyncio.sleep(STEP_S)
    return True
