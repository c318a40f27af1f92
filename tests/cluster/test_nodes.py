"""One instance on three nodes: where things run, what fits where, and what happens when nodes come and go."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

import pointsman as serve
from pointsman.engine.ray.child import ChildHost
from pointsman.engine.ray.hosts import ControllerHost, MetricsHost, ProcessHost
from pointsman.exceptions import InsufficientResourcesError, ServeException
from tests.cluster.conftest import Nodes
from tests.cluster.scripts import DETACHED, DRIVER, ORDERLY
from tests.conftest import WAIT_S, http_for, wait_until
from tests.metrics import Page, scrape_at
from tests.process.load import PAUSE_S
from tests.process.test_cli import printed_by


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


def leave(nodes: Nodes, client: serve.Client, node: object) -> None:
    """A node leaves, and the three that were there first are left with their ingresses: what is started on every node
    costs later tests no more."""
    nodes.remove(node)
    wait_until(lambda: len(ingress_pids(client)) == 3, what="the ingress of the node that left is gone")


def alive_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def test_every_node_has_an_ingress(client: serve.Client, nodes: Nodes) -> None:
    """Each node serves HTTP at the same port; one that joins gets an ingress, one that leaves loses it; none takes a
    CPU (LO2, RM5, EX18)."""
    wait_until(lambda: len(ingress_pids(client)) == 3, what="three ingresses")
    free = lambda: ray.available_resources().get("CPU")  # noqa: E731
    wait_until(lambda: free() == ray.cluster_resources()["CPU"], what="ingresses and controller take no CPU")
    joined = nodes.add(num_cpus=1)
    wait_until(lambda: len(ingress_pids(client)) == 4, what="an ingress on the new node")
    leave(nodes, client, joined)


def test_http_survives_the_death_of_an_ingress(client: serve.Client, name: str) -> None:
    """One of three ingresses is killed: the others serve on, and it comes back (LO2, FT2)."""
    client.deploy(name, lambda request: "here", route=f"/{name}")
    wait_until(lambda: len(ingress_pids(client)) == 3, what="three ingresses")
    victim = ingress_pids(client)[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: has_ended(victim), what="the ingress's end")
    for _ in range(20):
        assert httpx.get(f"{client.http_address}/{name}", timeout=WAIT_S).text == "here"
    wait_until(lambda: len(ingress_pids(client)) == 3 and victim not in ingress_pids(client), what="a new ingress")


def has_ended(pid: int) -> bool:
    """Whether a process has ended with all its threads: as long as one is there, so are its sockets, though the first
    thread is a zombie."""
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() == 1
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


def pages_of(client: serve.Client) -> dict[str, Page]:
    """What each node's metrics show now."""
    return {one["node"]: scrape_at(one["address"]) for one in client.status()["metrics"]}


def replicas_shown(pages: dict[str, Page], backend: str) -> list[tuple[str, str]]:
    """Node and tag of each replica that a gauge names."""
    gauges = [(node, page.of("serve_replica_processing_queries", backend=backend)) for node, page in pages.items()]
    return [(node, labels["replica"]) for node, samples in gauges for labels, _ in samples]


def test_metrics_on_each_node(client: serve.Client, nodes: Nodes, name: str) -> None:
    """Each node serves what happens there, and all of them together everything; who dies takes its gauges along, and
    who serves them comes back at the same port (MO6, MO5)."""
    client.deploy(name, Where, route=f"/{name}", ray_actor_options={"num_cpus": 0, "resources": {"disk": 0.25}})
    wait_until(lambda: len(client.status()["metrics"]) == 3, what="metrics of three nodes")
    called = [client.get_handle(name).remote().result() for _ in range(7)]
    pages = pages_of(client)
    (replica,) = client.status()["backends"][name]["replicas"]
    assert replicas_shown(pages, name) == [(called[0]["node"], replica["tag"])]
    assert sum(page.sum("serve_backend_request_counter", backend=name) for page in pages.values()) == 7
    assert client.stats()["backends"][name]["requests"] == 7
    for _ in range(20):  # each over a connection of its own, to any node's server
        assert httpx.get(f"{client.http_address}/{name}", timeout=WAIT_S).status_code == 200
    wait_until(lambda: client.stats()["endpoints"][name]["latency_ms"]["count"] == 27, what="counts of all nodes")

    os.kill(replica["pid"], signal.SIGKILL)
    wait_until(
        lambda: [tag != replica["tag"] for _, tag in replicas_shown(pages_of(client), name)] == [True],
        what="the gauges of the new replica, and of no other",
    )
    address = next(one["address"] for one in client.status()["metrics"] if one["node"] == called[0]["node"])
    port = int(address.rpartition(":")[2])
    serving = {c.pid for c in psutil.net_connections("tcp") if c.laddr.port == port and c.status == psutil.CONN_LISTEN}
    assert len(serving) == 1
    os.kill(serving.pop() or 0, signal.SIGKILL)
    wait_until(lambda: answers(address), what="metrics at the same port")
    assert sum(page.sum("serve_backend_request_counter", backend=name) for page in pages_of(client).values()) == 27
    client.delete_endpoint(name)
    client.delete_backend(name)


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/metrics").status_code == 200
    except httpx.TransportError:
        return False


def test_options_of_places(client: serve.Client, name: str) -> None:
    """A node, a placement group or an option that does not exist: replicas run there, or are refused in one sentence,
    and nothing is left behind (EN3, RM2, RM3)."""
    disk = next(node["NodeID"] for node in ray.nodes() if node["Alive"] and "disk" in node["Resources"])
    there = {"num_cpus": 1, "scheduling_strategy": NodeAffinitySchedulingStrategy(disk, soft=False)}
    client.deploy(name, Where, ray_actor_options=there)
    assert client.get_handle(name).remote().result()["node"] == disk
    with pytest.raises(InsufficientResourcesError, match=rf"asked for 5 x .num_cpus=1. on node {disk} more, free: "):
        client.create_backend(f"{name}-more", Where, config={"num_replicas": 5}, ray_actor_options=there)

    group = placement_group([{"CPU": 1, "disk": 0.25}])
    ray.get(group.ready())
    inside = {"num_cpus": 1, "scheduling_strategy": PlacementGroupSchedulingStrategy(group)}
    client.deploy(name, Where, ray_actor_options=inside)
    assert client.get_handle(name).remote().result()["node"] == disk
    with pytest.raises(InsufficientResourcesError, match=f"placement group {group.id.hex()}"):
        client.update_backend_config(name, {"num_replicas": 2})
    with pytest.raises(ValueError, match="'max_concurrency': replicas are not called through Ray"):
        client.create_backend(f"{name}-more", Where, ray_actor_options={"max_concurrency": 3})
    assert f"{name}-more" not in client.list_backends()
    client.delete_endpoint(name)
    client.delete_backend(name)
    remove_placement_group(group)


def test_a_change_waits_for_nodes(client: serve.Client, nodes: Nodes, name: str) -> None:
    """With wait_for_resources_s a backend that fits nowhere waits, and runs once a node with room has joined (RM3)."""
    with serve.start(
        engine="ray",
        address=nodes.address,
        wait_for_resources_s=60,
        http_options={"location": None},
        metrics_export_port=None,
    ) as patient:
        needs = {"resources": {"rare": 1}}
        creating = threading.Thread(target=lambda: patient.create_backend(name, Where, ray_actor_options=needs))
        creating.start()
        assert name not in patient.list_backends()
        joined = nodes.add(num_cpus=1, resources={"rare": 1})
        creating.join()
        assert patient.status()["backends"][name]["replicas_running"] == 1
    leave(nodes, client, joined)


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
    """A node loses power under load: every idempotent call is answered, its replicas come up elsewhere, and its metrics
    are gone with it (F14, MO5)."""
    lost = nodes.add(num_cpus=2, resources={name: 2})
    client.deploy(
        name, Where, route=f"/{name}", config={"num_replicas": 2}, ray_actor_options={"resources": {name: 0.5}}
    )
    refuge = nodes.add(num_cpus=2, resources={name: 2})
    wait_until(lambda: sum(name in node["Resources"] for node in ray.nodes() if node["Alive"]) == 2, what="a refuge")
    before = {replica["pid"] for replica in client.status()["backends"][name]["replicas"]}
    shown = {tag for _, tag in replicas_shown(pages_of(client), name)}
    handle = client.get_handle(name).options(idempotent=True)
    answers: list[dict[str, object]] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.wait(PAUSE_S):
            answers.append(handle.remote().result(timeout=WAIT_S))

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
    wait_until(
        lambda: len(now := {tag for _, tag in replicas_shown(pages_of(client), name)}) == 2 and now.isdisjoint(shown),
        what="gauges of the new replicas only",
    )
    assert {one["node"] for one in client.status()["metrics"]} <= alive_nodes()
    client.delete_endpoint(name)
    client.delete_backend(name)
    leave(nodes, client, refuge)


def namespaces() -> set[str]:
    """Each instance has one of its own, and is in it for as long as it has actors."""
    return {actor["namespace"] for actor in ray.util.list_named_actors(all_namespaces=True)}


def processes_of_ours() -> set[int]:
    """On the nodes of this test; by their titles, since a process may live on when its actor is no more."""
    kinds = tuple(f"ray::{host.__name__}" for host in (ControllerHost, ProcessHost, ChildHost, MetricsHost))
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if process.cmdline()[:1] and process.cmdline()[0].startswith(kinds):
                found.add(process.pid)
    return found


def test_the_driver_is_killed(nodes: Nodes, client: serve.Client) -> None:
    """A script is killed: its instance ends, and leaves nothing in the cluster, which lives on (IN4)."""
    before, processes_before = namespaces(), processes_of_ours()
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, nodes.address], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert driver.stdout is not None
    printed = [""]  # by Ray as well
    for line in driver.stdout:
        printed.append(line)
        if line.startswith("pids:"):
            break
    assert "pids:" in printed[-1], f"the script has failed: {''.join(printed)}"
    pids = [int(pid) for pid in printed[-1].partition(" end")[0].split()[1:]]  # Ray may print behind it, on that line
    assert len(pids) == 2
    (its_own,) = namespaces() - before
    driver.kill()
    driver.wait()
    driver.stdout.close()
    wait_until(lambda: all(has_ended(pid) for pid in pids), what="the end of the replicas")
    wait_until(lambda: its_own not in namespaces(), what="the end of all its actors")
    wait_until(lambda: processes_of_ours() <= processes_before, what="the end of all its processes")


def test_a_detached_instance(nodes: Nodes, client: serve.Client) -> None:
    """A script starts a detached instance and ends; another one finds it, uses it, and ends it for good (IN6, FT9)."""
    subprocess.run([sys.executable, "-c", DETACHED, nodes.address], check=True, timeout=2 * WAIT_S)
    with pytest.raises(ServeException, match="connect"):
        serve.start(True, engine="ray", name="kept", address=nodes.address, http_options={"location": None})
    found = serve.connect("kept", engine="ray")
    assert httpx.get(f"{found.http_address}/m", timeout=WAIT_S).text == "still here"
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


def pointsman(*args: str, fails: bool = False) -> str:
    """What the command prints, or what it says of its failure."""
    done = subprocess.run(
        [Path(sys.executable).with_name("pointsman"), *args],
        capture_output=True,
        text=True,
        timeout=2 * WAIT_S,
        check=False,
    )
    assert done.returncode == (1 if fails else 0), done.stderr
    return done.stderr if fails else done.stdout


def no_model(request: object) -> None:
    print("printed first")
    raise ValueError("no model")


def test_the_command_line(nodes: Nodes, client: serve.Client) -> None:
    """An instance on a cluster is started, looked at and ended from a terminal."""
    where = ("--name", "shell", "--address", nodes.address)
    ports = ("--http-port", "0", "--metrics-export-port", "0", "--console-port", "-1")
    started = pointsman("start", "--detached", "--engine", "ray", *ports, *where)
    assert "ready at http://127.0.0.1:" in started
    assert f"pointsman status --name shell --address {nodes.address}" in started
    assert json.loads(pointsman("status", "--json", *where))["name"] == "shell"
    assert json.loads(printed_by("traffic", "show", "--json", *where)) == {}
    listed = json.loads(printed_by("list", "--json", "--address", nodes.address))
    assert [one["name"] for one in listed] == ["shell"]
    assert printed_by("env", "list", "--address", nodes.address)
    assert "say which cluster" in pointsman("env", "prune", fails=True)  # this instance may use what is pruned
    shell = serve.connect("shell", engine="ray")
    shell.deploy("m", no_model)
    with pytest.raises(ValueError, match="no model"):
        shell.get_handle("m").remote().result()
    shown: list[str] = []
    wait_until(lambda: shown.append(printed_by("logs", *where)) or "ValueError: no model" in shown[-1], what="its log")
    assert "ValueError: no model" in pointsman("logs", *where)
    by = {line.partition("] ")[0] for line in shown[-1].splitlines()}
    assert "[controller" in by
    assert next(line for line in shown[-1].splitlines() if line.startswith("[m#")).endswith("] printed first")
    assert "has ended" in pointsman("shutdown", *where)


def test_a_cluster_that_is_there_says_what_it_has(
    nodes: Nodes, client: serve.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `start` says of a new cluster is refused, and not passed over, where the process is in one already, or names
    one by its address: each amount, also 0, and also when this process has started the cluster with others (EN2)."""
    from pointsman.engine.base import Cluster
    from pointsman.engine.ray import cluster

    amounts: tuple[dict[str, Any], ...] = (
        {"num_gpus": 1},
        {"num_gpus": 0},
        {"num_cpus": 1},
        {"memory": 1},
        {"resources": {"disk": 1}},
    )
    for address in (None, "auto", nodes.address):
        for amount in amounts:
            with pytest.raises(ValueError, match=f"{next(iter(amount))}=.* says what its nodes have"):
                serve.start(engine="ray", address=address, **amount)
    with pytest.raises(ServeException, match="cannot be in one at"):
        serve.start(engine="ray", address="local")
    with pytest.raises(ServeException, match="cannot be in one at 'elsewhere:1'"):
        serve.start(engine="ray", address="elsewhere:1")
    monkeypatch.setattr(cluster, "_started_here", True)
    monkeypatch.setattr(cluster, "_amounts", {"num_cpus": 2.0})
    with pytest.raises(ValueError, match=r"num_gpus=1 of start\(\)"):
        serve.start(engine="ray", num_gpus=1, num_cpus=2)
    cluster.join(Cluster(amounts={"num_cpus": 2.0}))
    assert ray.is_initialized()


def test_one_name_here_and_in_the_cluster(nodes: Nodes, client: serve.Client, name: str, tmp_path: Path) -> None:
    """In a process that is in a cluster, connect() finds an instance wherever it was started; where there is one of
    that name in both places it says so, and how to choose. A stop keeps what is stored in a folder there, too (IN8,
    IN12)."""
    no_http: dict[str, Any] = {"http_options": {"location": None}, "metrics_export_port": None}
    on_ray: dict[str, Any] = {"engine": "ray", "address": nodes.address, "state_dir": tmp_path / "state", **no_http}
    with serve.start(True, name=name, **no_http) as here:
        assert serve.connect(name).status()["controller_pid"] == here.status()["controller_pid"]
        with serve.start(True, name=name, **on_ray) as there:
            there.create_backend("kept", node_of_this_process, config={"num_replicas": 1}, ray_actor_options=FREE)
            with pytest.raises(ServeException, match=r"engine='local'.* or .*engine='ray'"):
                serve.connect(name)
            assert not serve.connect(name, engine="local").list_backends()
            assert serve.connect(name, engine="ray").list_backends().keys() == {"kept"}
            assert serve.connect(name, address=nodes.address).list_backends().keys() == {"kept"}
    with pytest.raises(ServeException, match=f"{name}.* on this machine, and: .* on this cluster"):
        serve.connect(name)
    again = serve.start(True, name=name, **on_ray)
    assert serve.connect(name).list_backends().keys() == {"kept"}
    again.shutdown()
    with serve.start(True, name=name, **on_ray) as empty:
        assert not empty.list_backends()
        empty.shutdown()


FREE = {"num_cpus": 0}


def test_an_orderly_end_of_the_script(nodes: Nodes, client: serve.Client, tmp_path: Path) -> None:
    """A script whose instance is on a cluster is asked to end while a request runs: that is answered first (IN4)."""
    began = tmp_path / "began"
    code = ORDERLY.replace("sys.argv[2]", repr(str(began)))
    driver = subprocess.Popen([sys.executable, "-c", code, nodes.address], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    address = next(line for line in driver.stdout if line.startswith("address:")).split()[1]  # Ray prints there as well
    answers: list[str] = []
    request = threading.Thread(target=lambda: answers.append(httpx.get(f"{address}/long", timeout=WAIT_S).text))
    request.start()
    wait_until(began.exists, what="the request runs")
    driver.send_signal(signal.SIGTERM)
    printed, _ = driver.communicate(timeout=2 * WAIT_S)
    request.join(WAIT_S)
    assert (answers, driver.returncode, "returned" in printed) == (["finished"], 0, True)
