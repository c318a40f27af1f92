"""A router that copies calls to a shadow, and code that notes what it is sent."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from pointsman.model import RoutingTable
from pointsman.routing.call import Call
from pointsman.routing.metrics import PoolStatistics
from pointsman.routing.router import Router
from pointsman.testing import ScriptedReplica, new_call, settle, table_of
from tests.loop.routers import splitting

MARK = (b"x-serve-shadow", b"1")
SEEN: list[tuple[bytes, str | None]] = []
"""Bodies that shadows got, and what the mark says; emptied before each test."""


async def record(request: Any) -> str:
    SEEN.append((await request.body(), request.headers.get("x-serve-shadow")))
    return "the shadow's answer"


async def fail(request: Any) -> str:
    raise ValueError("the shadow's trouble")


def shadowed(
    primary: Any, shadow: Any, *, proportion: float = 1.0, **options: Any
) -> contextlib.AbstractAsyncContextManager[Router]:
    """A router with endpoint ``b``, answered by ``primary`` and copied to ``shadow``."""
    return splitting(table(1, primary, shadow, proportion, **options), draw=0.0)


def table(version: int, primary: Any, shadow: Any, proportion: float, **options: Any) -> RoutingTable:
    backends = {"b": [primary], "s": [shadow] if shadow else []}
    shadows = {"s": proportion} if proportion else {}
    return table_of(version, backends, endpoints={"b": {"b": 1.0}}, shadows=shadows, **options)


async def submitted(router: Router, count: int = 1, **fields: Any) -> list[Call]:
    calls = [new_call(**{"request_id": str(number), **fields}) for number in range(count)]
    for call in calls:
        router.submit(call)
    await settle()
    return calls


def counts(router: Router, backend: str = "s") -> dict[str, int]:
    """What the router says of a shadow, less what is 0."""
    (found,) = [shadow for shadow in router.shadow_statistics() if shadow.backend == backend]
    fields = msgspec.structs.asdict(found)
    return {name: value for name, value in fields.items() if isinstance(value, int) and value}


def pool(router: Router, backend: str) -> PoolStatistics:
    (found,) = [statistics for statistics in router.statistics() if statistics.backend == backend]
    return found


def order(replica: ScriptedReplica) -> list[str]:
    """Request ids in order of arrival, of copies with a tick."""
    return [head.request.request_id + "'" * (MARK in head.request.headers) for head in replica.arrived]
