"""engine.ray.cluster: which instances keep the cluster that this process has started."""

from __future__ import annotations

import pytest

pytest.importorskip("ray", reason="Ray is not installed")

from pointsman.engine.base import Cluster
from pointsman.engine.ray import cluster


class FakeRay:
    """A process's membership of a cluster, without one."""

    def __init__(self) -> None:
        self.member = False

    def is_initialized(self) -> bool:
        return self.member

    def shutdown(self) -> None:
        self.member = False


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay()

    def start(amounts: object, *, allow_insecure: bool) -> None:
        ray.member = True

    monkeypatch.setattr(cluster, "ray", ray)
    monkeypatch.setattr(cluster, "_start", start)
    monkeypatch.setattr(cluster, "_check_folder", lambda: None)
    monkeypatch.setattr(cluster, "_refuse_another", lambda address: None)
    for name in ("_instances", "_membership", "_started_here"):
        monkeypatch.setattr(cluster, name, getattr(cluster, name))
    return ray


def started() -> int:
    cluster.join(Cluster(None if cluster.is_member() else "local"))
    return cluster.hold()


def test_the_last_instance_takes_its_cluster_along(ray: FakeRay) -> None:
    """A script starts two instances on a cluster of its own: it ends with the second (EN2)."""
    one, two = started(), started()
    cluster.let_go(one)
    assert ray.member
    cluster.let_go(two)
    assert not ray.member


def test_an_instance_of_an_earlier_cluster_holds_no_later_one(ray: FakeRay) -> None:
    """A script calls ``ray.shutdown()`` without ending its instance; the next cluster it starts ends with the instances
    that are there, whether the first one is ended late or never (EN2)."""
    before = started()
    ray.shutdown()
    now = started()
    cluster.let_go(before)
    assert ray.member
    cluster.let_go(now)
    assert not ray.member
