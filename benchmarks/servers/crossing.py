"""What crossing nodes costs: two nodes on this machine, a no-op replica on each, handle calls from the first node.

Prints one JSON line: medians in microseconds of calls one at a time, to the replica of the same node (over a Unix
socket) and to that of the other one (over TCP). The two take turns, in blocks of a tenth of the calls.
Usage: crossing.py CALLS
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - so spelt

import ray
from ray.cluster_utils import Cluster

import pointsman as serve

NODE = {"node_ip_address": "127.0.0.2", "object_store_memory": 80 * 1024 * 1024, "include_dashboard": False}
BLOCKS = 10


async def noop(request: Any) -> str:
    return "ok"


class Caller:
    """Calls from inside a replica, so that nothing but the road to the other replica differs."""

    def __init__(self) -> None:
        self._handles = {name: serve.connect().get_handle(name, sync=False) for name in ("here", "there")}

    async def __call__(self, request: Any) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {"here": [], "there": []}
        for _ in range(BLOCKS):
            for name, handle in self._handles.items():
                for _ in range(int(request.query_params["calls"]) // BLOCKS):
                    began = time.perf_counter()
                    await (await handle.remote())
                    times[name].append((time.perf_counter() - began) * 1e6)
        return times


def main(calls: int) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 4, "resources": {"here": 9}})
    cluster.add_node(**NODE, num_cpus=4, resources={"there": 9})
    with serve.start(engine="ray", address=cluster.address, http_options={"location": None}) as client:
        for name in ("here", "there"):
            client.deploy(name, noop, ray_actor_options={"resources": {name: 1}})
        client.deploy("caller", Caller, ray_actor_options={"resources": {"here": 1}})
        caller = client.get_handle("caller")
        caller.remote(calls=calls // 5 + BLOCKS).result()
        times = caller.remote(calls=calls).result()
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(json.dumps(medians))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
