"""One instance on three nodes: where things run, what fits where, and what happens when nodes come and go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import ray

import pointsman as serve
from pointsman.exceptions import InsufficientResourcesError, ServeException
from tests.cluster.conftest import Nodes
from tests.conftest import http_for, wait_until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def client(nodes: Nodes) -> Iterator[serve.Client]:
    client = serve.start(
        engine="ray",
        address=nodes.address,
        http_options={"port": 0, "location": "EveryNode"},
        metrics_export_port=0,
    )
    yield client
    client.shutdown()


def node_of_this_process(request: object) -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


class Where:
    """Says where it runs."""

    def __call__(self, request: object) -> dict[str, object]:
        return {"node": node_of_this_process(request), "pid": os.getpid()}


def ingress_pids(client: serve.Client) -> list[int]:
    return [ingress["pid"] for ingress in client.status()["http"]["ingresses"]]


def alive_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def test_every_node_has_an_ingress(client: serve.Client, nodes: Nodes) -> None:
    """Each node serves HTTP at the same port; one that joins gets an ingress, one that leaves loses it (LO2)."""
    wait_until(lambda: len(ingress_pids(client)) == 3, what="three ingresses")
    joined = nodes.add(num_cpus=1)
    wait_until(lambda: len(ingress_pids(client)) == 4, what="an ingress on the new node")
    nodes.remove(joined)
    wait_until(lambda: len(ingress_pids(client)) == 3, what="the ingress of the node that left is gone")


def test_http_survives_the_death_of_an_ingress(client: serve.Client, name: str) -> None:
    """One of three ingresses is killed: the others serve on, and it comes back (LO2, FT2)."""
    client.deploy(name, lambda request: "here", route=f"/{name}")
    wait_until(lambda: len(ingress_pids(client)) == 3, what="three ingresses")
    victim = ingress_pids(client)[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(victim) or is_zombie(victim), what="the ingress's end")
    for _ in range(20):
        assert httpx.get(f"{client.http_address}/{name}").text == "here"
    wait_until(lambda: len(ingress_pids(client)) == 3 and victim not in ingress_pids(client), what="a new ingress")


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_what_fits_on_no_node_is_refused(client: serve.Client, name: str) -> None:
    """Six CPUs are free in all, and no node has that many: refused at once, with what is free on each (RM3, RM4)."""
    with pytest.raises(InsufficientResourcesError, match=r"Cannot scale backend .*num_cpus=6.*on node .*; .*on node"):
        client.create_backend(name, Where, ray_actor_options={"num_cpus": 6})
    with pytest.raises(InsufficientResourcesError, match="num_gpus=2"):
        client.create_backend(name, Where, ray_actor_options={"num_gpus": 2})
    assert name not in client.list_backends()


def test_replicas_go_where_there_is_room(client: serve.Client, name: str) -> None:
    """A GPU is only on one node, and a disk on another: each replica runs where its needs are met (RM4, RM7)."""
    client.deploy(name, Where, ray_actor_options={"num_cpus": 0, "num_gpus": 0.5})
    client.deploy(f"{name}-disk", Where, ray_actor_options={"num_cpus": 1, "resources": {"disk": 0.5}})
    has = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    gpu = client.get_handle(name).remote().result()
    disk = client.get_handle(f"{name}-disk").remote().result()
    assert has[gpu["node"]]["GPU"] == 1
    assert has[disk["node"]]["disk"] == 1
    for tag in (name, f"{name}-disk"):
        client.delete_endpoint(tag)
        client.delete_backend(tag)


def test_a_change_waits_for_nodes(nodes: Nodes, name: str) -> None:
    """With wait_for_resources_s a backend that fits nowhere waits, and runs once a node with room has joined (RM3)."""
    with serve.start(
        engine="ray",
        address=nodes.address,
        wait_for_resources_s=60,
        http_options={"location": None},
        metrics_export_port=None,
    ) as client:
        needs = {"resources": {"rare": 1}}
        creating = threading.Thread(target=lambda: client.create_backend(name, Where, ray_actor_options=needs))
        creating.start()
        assert name not in client.list_backends()
        nodes.add(num_cpus=1, resources={"rare": 1})
        creating.join()
        assert client.status()["backends"][name]["replicas_running"] == 1


def test_the_controller_dies(client: serve.Client, name: str) -> None:
    """The controller is killed under load: no request fails, the same replicas serve on, changes work (FT1, FT8)."""
    client.deploy(name, Where, route=f"/{name}", config={"num_replicas": 2})
    before = {replica["pid"] for replica in client.status()["backends"][name]["replicas"]}
    pid = client.status()["controller_pid"]
    answers: list[int] = []
    with http_for(client) as http:
        os.kill(pid, signal.SIGKILL)
        for _ in range(200):
            answers.append(http.get(f"/{name}").status_code)
    assert set(answers) == {200}
    client.update_backend_config(name, {"max_concurrent_queries": 7})
    status = client.status()
    assert status["controller_pid"] != pid
    assert {replica["pid"] for replica in status["backends"][name]["replicas"]} == before
    client.delete_endpoint(name)
    client.delete_backend(name)


def test_a_node_dies_under_load(client: serve.Client, nodes: Nodes, name: str) -> None:
    """A node loses power under load: every idempotent call is answered, and its replicas come up elsewhere (F14)."""
    lost = nodes.add(num_cpus=2, resources={name: 2})
    client.deploy(
        name, Where, route=f"/{name}", config={"num_replicas": 2}, ray_actor_options={"resources": {name: 0.5}}
    )
    nodes.add(num_cpus=2, resources={name: 2})
    wait_until(lambda: sum(name in node["Resources"] for node in ray.nodes() if node["Alive"]) == 2, what="a refuge")
    before = {replica["pid"] for replica in client.status()["backends"][name]["replicas"]}
    handle = client.get_handle(name).options(idempotent=True)
    answers: list[dict[str, object]] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            answers.append(handle.remote().result(timeout=30))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(answers) > 50, what="traffic")
        nodes.remove(lost, by_surprise=True)
        wait_until(
            lambda: (
                all(
                    replica["pid"] not in before and replica["state"] == "READY"
                    for replica in client.status()["backends"][name]["replicas"]
                )
                and client.status()["backends"][name]["replicas_running"] == 2
            ),
            what="new replicas elsewhere",
        )
        count = len(answers)
        wait_until(lambda: len(answers) > count + 50, what="traffic after the death")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert {answer["pid"] for answer in answers[-20:]}.isdisjoint(before)
    client.delete_endpoint(name)
    client.delete_backend(name)


DRIVER = """
import sys, time
import pointsman as serve
client = serve.start(engine="ray", address=sys.argv[1], http_options={"port": 0}, metrics_export_port=None)
client.deploy("m", lambda request: __import__("os").getpid(), config={"num_replicas": 2})
print(*(replica["pid"] for replica in client.status()["backends"]["m"]["replicas"]), flush=True)
time.sleep(600)
"""


def named_actors() -> list[dict[str, str]]:
    return list(ray.util.list_named_actors(all_namespaces=True))


def test_the_driver_is_killed(nodes: Nodes, client: serve.Client) -> None:
    """A script is killed: its instance ends, and leaves nothing in the cluster, which lives on (IN4)."""
    before = named_actors()
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, nodes.address], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    pids = [int(pid) for pid in driver.stdout.readline().split()]
    assert len(pids) == 2
    driver.kill()
    driver.wait()
    driver.stdout.close()
    wait_until(lambda: all(is_zombie(pid) for pid in pids), what="the end of the replicas")
    wait_until(lambda: len(named_actors()) == len(before), what="the end of all its actors")


DETACHED = """
import sys
import pointsman as serve
client = serve.start(True, engine="ray", name="kept", address=sys.argv[1], http_options={"port": 0},
                     metrics_export_port=None)
client.deploy("m", lambda request: "still here", route="/m")
"""


def test_a_detached_instance(nodes: Nodes, client: serve.Client) -> None:
    """A script starts a detached instance and ends; another one finds it, uses it, and ends it for good (IN6, FT9)."""
    subprocess.run([sys.executable, "-c", DETACHED, nodes.address], check=True, timeout=60)
    with pytest.raises(ServeException, match="connect"):
        serve.start(True, engine="ray", name="kept", address=nodes.address, http_options={"location": None})
    found = serve.connect("kept", engine="ray")
    assert httpx.get(f"{found.http_address}/m").text == "still here"
    assert found.get_handle("m").remote().result() == "still here"
    os.kill(found.status()["controller_pid"], signal.SIGKILL)
    assert found.list_endpoints().keys() == {"m"}
    found.shutdown()
    with pytest.raises(ServeException, match="kept"):
        serve.connect("kept", engine="ray")
    with serve.start(
        True,
        engine="ray",
        name="kept",
        address=nodes.address,
        http_options={"location": None},
        metrics_export_port=None,
    ) as again:
        assert not again.list_endpoints()


def pointsman(*args: str) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name("pointsman"), *args], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line(nodes: Nodes, client: serve.Client) -> None:
    """An instance on a cluster is started, looked at and ended from a terminal."""
    where = ("--name", "shell", "--address", nodes.address)
    ports = ("--http-port", "0", "--metrics-export-port", "0")
    started = pointsman("start", "--detached", "--engine", "ray", *ports, *where)
    assert "ready at http://127.0.0.1:" in started
    assert f"pointsman status --name shell --address {nodes.address}" in started
    assert json.loads(pointsman("status", "--json", *where))["name"] == "shell"
    assert "has ended" in pointsman("shutdown", *where)
