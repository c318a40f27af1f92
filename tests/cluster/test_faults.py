"""Faults of a cluster that tests of one machine cannot have: its head is away, a node is cut off, all of it ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import ray

import pointsman as serve
from pointsman.exceptions import ServeException
from tests.cluster.conftest import Nodes
from tests.conftest import http_for, wait_until
from tests.process.load import PAUSE_S

pytestmark = pytest.mark.timeout(120)

BLIP_S = 5.0


@pytest.fixture(scope="module")
def client(nodes: Nodes) -> Iterator[serve.Client]:
    client = serve.start(engine="ray", address=nodes.address, http_options={"port": 0}, metrics_export_port=None)
    yield client
    client.shutdown()


def pid_of_replica(request: object) -> int:
    return os.getpid()


@contextmanager
def stopped(pids: set[int]) -> Iterator[None]:
    """Processes that are there and do nothing: neither they nor the kernel says so."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


class Load:
    """Idempotent calls from four threads, for as long as it is entered."""

    def __init__(self, handle: serve.handle.ServeHandle) -> None:
        self._handle = handle.options(idempotent=True)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(4)]
        self.answers: list[int] = []
        self.errors: list[BaseException] = []

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_S):
            try:
                self.answers.append(self._handle.remote().result(timeout=30))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
                self.errors.append(error)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, count: int = 100, *, of: int | None = None) -> None:
        """Return when so many more answers have come, of this replica if one is named."""
        before = len(self.answers)
        wait_until(lambda: Counter(self.answers[before:]).total() >= count, what="more answers")
        if of is not None:
            wait_until(lambda: of in self.answers[before:], what=f"an answer of process {of}")


def replicas(client: serve.Client, tag: str) -> set[int]:
    return {replica["pid"] for replica in client.status()["backends"][tag]["replicas"]}


def test_the_head_is_away(client: serve.Client, nodes: Nodes, name: str) -> None:
    """The cluster's head does not answer: requests are served on; a change is refused while that lasts and has not
    happened afterwards, and the same replicas serve (F16)."""
    client.deploy(name, pid_of_replica, route=f"/{name}", config={"num_replicas": 2})
    before = replicas(client, name)
    with Load(client.get_handle(name)) as load, http_for(client) as http, stopped({nodes.head_pid}):
        load.wait_for_more()
        assert http.get(f"/{name}").status_code == 200
        with ThreadPoolExecutor() as at_once:
            creating = at_once.submit(client.create_backend, f"{name}-more", pid_of_replica)
            setting = at_once.submit(client.set_traffic, name, {name: 1})
        with pytest.raises(ServeException, match="so nothing was changed"):
            creating.result()
        with pytest.raises(ServeException, match="was not made"):
            setting.result()
        load.wait_for_more()
    assert load.errors == []
    assert client.list_backends().keys() == {name}
    client.update_backend_config(name, {"max_concurrent_queries": 7})
    assert client.get_backend_config(name).max_concurrent_queries == 7
    assert replicas(client, name) == before
    client.delete_endpoint(name)
    client.delete_backend(name)


def processes_of(raylet: int) -> set[int]:
    """A raylet and all its workers."""
    return {raylet, *(child.pid for child in psutil.Process(raylet).children(recursive=True))}


def test_a_node_is_cut_off_for_a_moment(client: serve.Client, nodes: Nodes, name: str) -> None:
    """A node is not heard of for five seconds: what was under way there is answered afterwards, calls of other callers
    go elsewhere, and its replica is used again and was not replaced (F15)."""
    client.deploy(name, pid_of_replica, ray_actor_options={"num_cpus": 2}, config={"num_replicas": 2})
    before = replicas(client, name)
    node = processes_of(nodes.raylet_pid(nodes.others[-1]))
    (cut_off,) = before & node
    with Load(client.get_handle(name)) as load:
        load.wait_for_more(of=cut_off)
        with stopped(node):
            until = time.monotonic() + BLIP_S
            wait_until(lambda: time.monotonic() > until, what="the end of the blip")
            # Not of `load`: on a busy machine each of its callers may have been waiting there when the node stopped.
            with Load(client.get_handle(name)) as others:
                others.wait_for_more()
        load.wait_for_more(of=cut_off)
    assert load.errors == []
    assert replicas(client, name) == before
    client.delete_endpoint(name)
    client.delete_backend(name)


def start_kept(nodes: Nodes, folder: Path, *, name: str = "kept-on-disk") -> serve.Client:
    return serve.start(
        True,
        engine="ray",
        name=name,
        address=nodes.address,
        state_dir=folder,
        http_options={"location": None},
        metrics_export_port=None,
    )


def test_state_in_a_folder(nodes: Nodes, tmp_path: Path, name: str) -> None:
    """A detached instance with a state folder ends all at once, and the same call brings back what it served; while it
    lives the folder is refused to others, and after its shutdown nothing is left (IN10, IN11, IN12)."""
    folder = tmp_path / "state"
    first = start_kept(nodes, folder)
    first.deploy(name, pid_of_replica, config={"max_concurrent_queries": 7})
    before = replicas(first, name)
    with pytest.raises(ServeException, match="in use by a live instance"):
        start_kept(nodes, folder, name="other")
    controller = psutil.Process(first.status()["controller_pid"])
    ray.kill(ray.get_actor("controller", namespace="pointsman/kept-on-disk"))
    controller.wait(30)
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in before), what="the end of its replicas")

    again = start_kept(nodes, folder)
    assert again.get_handle(name).remote().result() in replicas(again, name)
    assert replicas(again, name).isdisjoint(before)
    assert again.get_backend_config(name).max_concurrent_queries == 7
    again.shutdown()
    assert not list(folder.glob("state.db*"))


class Talks:
    def __init__(self, line: str) -> None:
        self._line = line

    def __call__(self, request: object) -> str:
        print(self._line)
        return self._line


def test_logs_are_rays(client: serve.Client, name: str) -> None:
    """What replicas print and what our own processes have to say is in the log folder of Ray's session, where Ray's own
    tools find it."""
    line = f"line of {name}"
    client.deploy(name, Talks, line)
    assert client.get_handle(name).remote().result() == line
    folder = Path(ray._private.worker.global_worker.node.get_logs_dir_path())

    def logged(what: str) -> bool:
        return any(what in path.read_text(errors="replace") for path in folder.glob("worker-*"))

    wait_until(lambda: logged(line), what="the replica's line in Ray's logs")
    wait_until(lambda: logged(f"deploy '{name}'"), what="the controller's line in Ray's logs")
    client.delete_endpoint(name)
    client.delete_backend(name)
