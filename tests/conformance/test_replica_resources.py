"""CPUs, GPUs, memory and environment variables of replicas."""

from __future__ import annotations

import contextlib
import os

import psutil
import pytest

import pointsman as serve
from pointsman.exceptions import InsufficientResourcesError
from tests.conftest import family, start_client


def echo(request):
    return request.body()


def test_only_replicas_take_cpus():
    """Of two CPUs two replicas have one each by default: controller, supervisor and HTTP servers take none (RM1,
    RM5)."""
    with serve.start(num_cpus=2, http_options={"port": 0, "processes": 2}, metrics_export_port=0) as client:
        client.create_backend("all", echo, config={"num_replicas": 2})
        with pytest.raises(InsufficientResourcesError, match="free: num_cpus=0,"):
            client.create_backend("more", echo)


class Environment:
    def __call__(self, request):
        return {key: os.environ.get(key) for key in request.query_params["keys"].split(",")}


def environment(http, route, *keys):
    return http.get(route, params={"keys": ",".join(keys)}).json()


@pytest.mark.parametrize(("cpus", "threads"), [(None, "1"), (0, "1"), (2.5, "2"), (0.5, "1")])
def test_omp_num_threads(served, http, monkeypatch, cpus, threads):
    """The number of threads of numeric libraries follows the CPUs of a replica (OM1)."""
    options = {} if cpus is None else {"ray_actor_options": {"num_cpus": cpus}}
    assert environment(http, served(Environment, **options), "OMP_NUM_THREADS") == {"OMP_NUM_THREADS": threads}


def test_env_vars_win(served, http):
    """Environment variables of the backend win over what we set (OM3)."""
    route = served(Environment, ray_actor_options={"env_vars": {"OMP_NUM_THREADS": "9", "MY": "x"}})
    assert environment(http, route, "OMP_NUM_THREADS", "MY") == {"OMP_NUM_THREADS": "9", "MY": "x"}


def test_gpus_are_refused_without_any(client, name):
    """Without enough GPUs a backend is refused at once, naming what was asked and what is free (RM3, EX3)."""
    with pytest.raises(InsufficientResourcesError, match=r"^Cannot scale backend .*num_gpus=1000.*free: .*num_gpus="):
        client.create_backend(name, echo, ray_actor_options={"num_gpus": 1000})
    assert name not in client.list_backends()


@pytest.fixture(scope="module")
def strict(engine):
    """An instance with strict resources that need no hardware."""
    with start_client(engine, strict=True, location="NoServer") as client:
        yield client


def devices(client, tag):
    client.create_endpoint(tag, backend=tag)
    value = client.get_handle(tag).remote().result()
    client.delete_endpoint(tag)
    return value


def visible(request):
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_fractional_gpus_share_a_device(strict):
    """Two halves land on one GPU, so a whole one stays free; a share comes back with its replica (FR1, FR4, RM7)."""
    half = {"num_gpus": 0.5, "num_cpus": 0}
    strict.create_backend("half1", visible, ray_actor_options=half)
    strict.create_backend("half2", visible, ray_actor_options=half)
    strict.create_backend("whole", visible, ray_actor_options={"num_gpus": 1, "num_cpus": 0})
    assert devices(strict, "half1") == devices(strict, "half2") == "0"
    assert devices(strict, "whole") == "1"
    with pytest.raises(InsufficientResourcesError):
        strict.create_backend("more", visible, ray_actor_options={"num_gpus": 0.1})
    strict.delete_backend("half1")
    strict.create_backend("more", visible, ray_actor_options={"num_gpus": 0.5, "num_cpus": 0})
    strict.create_backend("none", visible, ray_actor_options={"num_cpus": 0})
    assert devices(strict, "none") == ""
    for tag in ("half2", "whole", "more", "none"):
        strict.delete_backend(tag)


@pytest.mark.parametrize(
    "options",
    [{"num_cpus": 40}, {"num_cpus": 0, "memory": 600_000_000}, {"num_cpus": 0, "resources": {"disk": 1.5}}],
    ids=["cpus", "memory", "custom"],
)
def test_strict_resources(strict, options):
    """A second replica that does not fit is refused, and the old number runs on and is reported (RM3, RM6, SO10)."""
    strict.create_backend("tight", echo, ray_actor_options=options)
    with pytest.raises(InsufficientResourcesError, match="Cannot scale backend"):
        strict.update_backend_config("tight", {"num_replicas": 2})
    assert strict.get_backend_config("tight").num_replicas == 1
    assert strict.status()["backends"]["tight"]["replicas_running"] == 1
    strict.delete_backend("tight")
    strict.create_backend("tight", echo, ray_actor_options=options)
    strict.delete_backend("tight")


def test_total_does_not_fit(strict):
    """When single replicas fit but all together do not, nothing is started (RM3)."""
    before = replica_processes()
    with pytest.raises(InsufficientResourcesError, match="4 x"):
        strict.create_backend("many", echo, ray_actor_options={"num_cpus": 20}, config={"num_replicas": 4})
    assert replica_processes() == before


def replica_processes():
    found = set()
    for pid, process in family().items():
        with contextlib.suppress(psutil.NoSuchProcess):  # on Ray others come and go
            if {"pointsman.replica", "ray::ProcessHost.be_replica"} & set(process.cmdline()):
                found.add(pid)
    return found
