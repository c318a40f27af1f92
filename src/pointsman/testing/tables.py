"""What a router is given in tests: a table of replicas in memory, and calls."""

from __future__ import annotations

import asyncio
from typing import Any

from pointsman.incoming import RequestHead
from pointsman.model import BackendRoute, EndpointSpec, RoutingTable, TrafficPolicy
from pointsman.routing.call import Call
from pointsman.routing.reply import Reply
from pointsman.testing.replicas import MemoryReplica
from pointsman.testing.scripted import ScriptedReplica


def table_of(
    version: int,
    backends: dict[str, list[MemoryReplica] | list[ScriptedReplica]],
    *,
    endpoints: dict[str, dict[str, float]] | None = None,
    shadows: dict[str, float] | None = None,
    max_concurrent_queries: int = 100,
    max_queued_queries: int = 1000,
    one_at_a_time: bool = False,
    multiplexed: bool = False,
) -> RoutingTable:
    """A routing table.

    Args:
        version: of the table; routers ignore older ones.
        backends: replicas by backend tag.
        endpoints: weights by endpoint; by default one endpoint per backend, of the same name.
        shadows: proportions by backend, for every endpoint.
        max_concurrent_queries: how many calls a router sends to one replica at a time.
        max_queued_queries: how many calls of one endpoint may wait in a router.
        one_at_a_time: whether all backends run their calls so.
        multiplexed: whether all of them load models by id.
    """
    weights = endpoints if endpoints is not None else {tag: {tag: 1.0} for tag in backends}
    return RoutingTable(
        version,
        {
            name: EndpointSpec(name, None, ("GET",), TrafficPolicy(version, split, shadows or {}))
            for name, split in weights.items()
        },
        {
            tag: BackendRoute(
                tag,
                tuple(r.ref for r in replicas),
                max_concurrent_queries,
                max_queued_queries,
                one_at_a_time,
                api=next((r.api for r in replicas), b""),
                multiplexed=multiplexed,
            )
            for tag, replicas in backends.items()
        },
    )


def new_call(endpoint: str = "b", *, timeout_s: float = 60.0, **fields: Any) -> Call:
    """A call that has ``timeout_s`` seconds; await its ``future`` once a router has it.

    Args:
        endpoint: name of the endpoint.
        timeout_s: seconds that the call has.
        fields: of the request's head, or of the call, by name.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Reply] = loop.create_future()
    head = {name: fields.pop(name) for name in RequestHead.__struct_fields__ if name in fields}
    return Call(RequestHead(endpoint, **head), deadline=loop.time() + timeout_s, future=future, **fields)
