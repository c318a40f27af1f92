"""Routers over replicas in memory, and calls submitted to them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from pointsman.model import Pins, Reason, RoutingTable
from pointsman.routing.call import Call
from pointsman.routing.router import Router
from pointsman.testing import INSTANCE, ScriptedReplica, new_call, settle, table_of
from pointsman.wire.messages import pack

FIVE = dict.fromkeys("vwxyz", 0.2)


@contextlib.asynccontextmanager
async def splitting(table: RoutingTable, draw: float = 0.5) -> AsyncIterator[Router]:
    """A router with a table; at the end it must not contradict itself."""
    router = Router(instance=INSTANCE, draw=lambda: draw)
    router.apply(table)
    await settle()
    yield router
    await settle()
    router.validate()
    await router.aclose()


def routed(*replicas: Any, **options: Any) -> contextlib.AbstractAsyncContextManager[Router]:
    """A router with one backend and endpoint ``b``."""
    return splitting(table_of(1, {"b": list(replicas)}, **options))


async def submitted(router: Router, count: int, **fields: Any) -> list[Call]:
    calls = [new_call(request_id=str(number), **fields) for number in range(count)]
    for call in calls:
        router.submit(call)
    await settle()
    return calls


def ids(replica: ScriptedReplica) -> list[str]:
    """Request ids of the calls that ever arrived, in order."""
    return [head.request.request_id for head in replica.arrived]


def several(tags: str) -> dict[str, ScriptedReplica]:
    return {tag: ScriptedReplica(tag) for tag in tags}


def table_for(version: int, replicas: dict[str, ScriptedReplica], weights: dict[str, float], **options: Any) -> Any:
    """Endpoint ``e``, split among these backends."""
    backends = {tag: [replica] for tag, replica in replicas.items()}
    return table_of(version, backends, endpoints={"e": weights}, **options)


def pinned(table: RoutingTable, **keys: str) -> RoutingTable:
    return msgspec.structs.replace(table, pins={"e": pack(Pins(keys))})


def serial(*replicas: ScriptedReplica, **options: Any) -> contextlib.AbstractAsyncContextManager[Router]:
    return routed(*replicas, one_at_a_time=True, **options)


async def warmed_up(router: Router, *replicas: ScriptedReplica, run_us: int) -> None:
    """Each replica has answered a call, and said what calls take."""
    for _ in replicas:
        router.submit(new_call(request_id="first"))
    await settle()
    for replica in replicas:
        replica.reply(run_us=run_us)
    await settle()
    for replica in replicas:
        replica.arrived.clear()


def send_back(replica: ScriptedReplica, *, but: int = 1) -> list[int]:
    """Answer a recall: all calls but the first so many have not begun."""
    back = list(replica.calls)[but:]
    for call_id in back:
        replica.refuse(call_id, reason=Reason.RECALLED)
    return back
