"""Clusters of several nodes, all on this machine: each node is a raylet of its own, with workers of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

# Before Ray is imported, for the clusters that tests start by themselves.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - so spelt

import ray
from ray.cluster_utils import Cluster

LOOPBACK = "127.0.0.2"
OBJECT_STORE_BYTES = 80 * 1024 * 1024


class Nodes:
    """A cluster, as tests change it."""

    def __init__(self) -> None:
        self._cluster = Cluster()
        self.head = self.add(num_cpus=2)
        self.address = str(self._cluster.address)
        self.others: list[object] = []
        """Those of the fixture, but for the head."""

    def add(self, **resources: object) -> object:
        """Add a node and wait until the cluster knows it."""
        return self._cluster.add_node(
            node_ip_address=LOOPBACK, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, **resources
        )

    def remove(self, node: object, *, by_surprise: bool = False) -> None:
        """Take a node away: in good order, or as when its machine loses power."""
        self._cluster.remove_node(node, allow_graceful=not by_surprise)

    @property
    def head_pid(self) -> int:
        """The process that knows the cluster."""
        return _pid(self.head, "gcs_server")

    def raylet_pid(self, node: object) -> int:
        """The process that is a node."""
        return _pid(node, "raylet")

    def end(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()


def _pid(node: object, role: str) -> int:
    return int(node.all_processes[role][0].process.pid)  # type: ignore[attr-defined]


@pytest.fixture(scope="package")
def nodes() -> Iterator[Nodes]:
    """Three nodes: two CPUs each, one of them with a GPU that is only said to be there. Starting and ending them takes
    eight seconds, so all modules have the same; each leaves them as it found them."""
    assert not ray.is_initialized(), "an earlier test has left its cluster"
    nodes = Nodes()
    nodes.others = [nodes.add(num_cpus=2, num_gpus=1), nodes.add(num_cpus=4, resources={"disk": 1})]
    yield nodes
    nodes.end()
