"""Tools for testing code that uses Pointsman: a client of a model without processes, simulations of autoscaling, and
what Pointsman's own tests use: an event loop in virtual time, connections in memory with faults, replicas and an engine
without processes, and a check of traffic policies.

    from pointsman.testing import TestClient

    with TestClient(Flowers, "weights.npz") as client:
        assert client.post(json={"sepal": 5.1}).json() == {"label": "setosa"}

Parts of Pointsman in virtual time:

    from pointsman.model import ReplicaConfig
    from pointsman.routing.router import Router
    from pointsman.testing import INSTANCE, MemoryReplica, new_call, run, table_of

    async def a_slow_model_answers_in_time():
        async with MemoryReplica(SlowModel, config=ReplicaConfig(max_concurrent_queries=4)) as replica:
            router = Router(instance=INSTANCE)
            router.apply(table_of(1, {"slow": [replica]}))
            call = new_call("slow", body=b"picture", timeout_s=3600)
            router.submit(call)
            assert (await call.future).body == b"cat"

    run(a_slow_model_answers_in_time())  # an hour of ``asyncio.sleep`` in SlowModel takes a millisecond

Names are imported on first use: a test of a model needs no simulator.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pointsman.testing.client import TestClient, TestResponse
    from pointsman.testing.evidence import FakeEvidence
    from pointsman.testing.fake_engine import FakeEngine, FakeReplica, Order, ReplicaPlan
    from pointsman.testing.fake_peers import FakePeers
    from pointsman.testing.losses import Loss, Losses
    from pointsman.testing.networks import MemoryNetwork, MemoryServer
    from pointsman.testing.pipes import Line, MemoryTransport, Pipe
    from pointsman.testing.policies import check_traffic_policy
    from pointsman.testing.replicas import INSTANCE, MemoryReplica
    from pointsman.testing.scaling.plot import plot_autoscaling
    from pointsman.testing.scaling.simulate import Simulated, simulate_autoscaling
    from pointsman.testing.scripted import ScriptedReplica
    from pointsman.testing.tables import new_call, table_of
    from pointsman.testing.virtual_time import DeadlockError, VirtualTimeLoop, real_time, run, settle, virtual_loop

_HOMES = {
    "TestClient": "client",
    "TestResponse": "client",
    "check_traffic_policy": "policies",
    "simulate_autoscaling": "scaling.simulate",
    "Simulated": "scaling.simulate",
    "plot_autoscaling": "scaling.plot",
    "run": "virtual_time",
    "settle": "virtual_time",
    "real_time": "virtual_time",
    "virtual_loop": "virtual_time",
    "VirtualTimeLoop": "virtual_time",
    "DeadlockError": "virtual_time",
    "Pipe": "pipes",
    "Line": "pipes",
    "MemoryTransport": "pipes",
    "MemoryNetwork": "networks",
    "MemoryServer": "networks",
    "Losses": "losses",
    "Loss": "losses",
    "MemoryReplica": "replicas",
    "ScriptedReplica": "scripted",
    "table_of": "tables",
    "new_call": "tables",
    "INSTANCE": "replicas",
    "FakeEngine": "fake_engine",
    "FakePeers": "fake_peers",
    "FakeReplica": "fake_engine",
    "ReplicaPlan": "fake_engine",
    "Order": "fake_engine",
    "FakeEvidence": "evidence",
}

__all__ = [
    "TestClient",
    "TestResponse",
    "check_traffic_policy",
    "simulate_autoscaling",
    "Simulated",
    "plot_autoscaling",
    "run",
    "settle",
    "real_time",
    "virtual_loop",
    "VirtualTimeLoop",
    "DeadlockError",
    "Pipe",
    "Line",
    "MemoryTransport",
    "MemoryNetwork",
    "MemoryServer",
    "Losses",
    "Loss",
    "MemoryReplica",
    "ScriptedReplica",
    "table_of",
    "new_call",
    "INSTANCE",
    "FakeEngine",
    "FakePeers",
    "FakeReplica",
    "ReplicaPlan",
    "Order",
    "FakeEvidence",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
