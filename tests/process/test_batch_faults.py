"""Real replicas that die with batches and queues in them, and overload (F1, F2, F35)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

import pointsman as serve
from pointsman.exceptions import ReplicaDiedError
from tests.conftest import WAIT_S, empty, family, http_for, leaves_no_process, start_client, wait_until


@pytest.fixture(scope="module")
def instance():
    with leaves_no_process():
        client = start_client()
        yield client
        client.shutdown()


@pytest.fixture
def client(instance):
    yield instance
    empty(instance)


def pids_of(client, backend):
    return [replica["pid"] for replica in client.status()["backends"][backend]["replicas"]]


class Notes:
    """Which replica ran which request: lines in a file that a SIGKILL cannot take back."""

    def __init__(self, folder):
        self.path = Path(folder) / "ran"
        self.gate = Path(folder) / "go"

    def write(self, number):
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{os.getpid()} {number}\n".encode())
        os.close(descriptor)

    def read(self):
        """Pairs of pid and number, in order."""
        text = self.path.read_text() if self.path.exists() else ""
        return [tuple(map(int, line.split())) for line in text.splitlines()]

    def by(self, pid):
        return [number for who, number in self.read() if who == pid]

    def wait(self):
        while not self.gate.exists():
            time.sleep(0.005)


class Batching:
    def __init__(self, folder):
        self.notes = Notes(folder)

    @serve.accept_batch
    def __call__(self, requests):
        for request in requests:
            self.notes.write(request.body())
        self.notes.wait()
        return [os.getpid()] * len(requests)

    def who(self, requests):
        return [os.getpid()] * len(requests)


class OneAtATime:
    def __init__(self, folder):
        self.notes = Notes(folder)

    def __call__(self, request):
        self.notes.write(int(request.query_params["n"]))
        self.notes.wait()
        return os.getpid()


def end_of(future):
    try:
        return future.result(WAIT_S)
    except ReplicaDiedError:
        return "died"


@pytest.mark.parametrize("idempotent", [False, True], ids=["once", "idempotent"])
def test_a_batch_dies_alone(client, tmp_path, idempotent):
    """A replica is killed with a batch of 16 in user code and four calls behind it: only the 16 are affected, and none
    fails that may be repeated; nothing else runs twice (F2, G2, G3)."""
    notes = Notes(tmp_path)
    client.create_backend("b", Batching, str(tmp_path), config={"num_replicas": 2, "max_batch_size": 16})
    client.create_endpoint("b", backend="b")
    handle = client.get_handle("b").options(idempotent=idempotent)
    both = set(pids_of(client, "b"))
    wait_until(lambda: set(serve.get([handle.options(method_name="who").remote() for _ in range(8)])) == both)
    client.update_backend_config("b", {"batch_wait_timeout": 600})
    futures = [handle.remote(number) for number in range(40)]
    victim, survivor = pids_of(client, "b")
    wait_until(lambda: len(notes.by(victim)) == len(notes.by(survivor)) == 16, what="two batches of 16 run")
    # What waits behind them would wait for company: from now on it goes when there is room.
    client.update_backend_config("b", {"batch_wait_timeout": 0})
    os.kill(victim, signal.SIGKILL)
    notes.gate.touch()
    ends = [end_of(future) for future in futures]
    members = set(notes.by(victim))
    times = Counter(number for _, number in notes.read())
    assert len(members) == 16
    if idempotent:
        assert "died" not in ends
        assert times == {number: 2 if number in members else 1 for number in range(40)}
    else:
        assert {number for number, end in enumerate(ends) if end == "died"} == members
        assert set(times.values()) == {1}
    assert victim not in ends


def test_only_the_request_that_ran_is_lost(client, tmp_path):
    """Ten POSTs are in flight on each of two replicas; one is killed: the one that ran there fails with 502, the nine
    that waited are answered by the other, and nothing runs twice (F1, G3)."""
    notes = Notes(tmp_path)
    client.create_backend("b", OneAtATime, str(tmp_path), config={"num_replicas": 2})
    client.create_endpoint("b", backend="b", route="/b", methods=["POST"])
    answers = {}

    def ask(number):
        with http_for(client) as http:
            answers[number] = http.post("/b", params={"n": number})

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    victim, survivor = pids_of(client, "b")
    wait_until(lambda: notes.by(victim) and notes.by(survivor), what="a request runs in each replica")
    wait_until(lambda: connected(client) >= 20, what="all requests have come in")
    (lost,) = notes.by(victim)
    os.kill(victim, signal.SIGKILL)
    notes.gate.touch()
    for thread in threads:
        thread.join()
    assert [number for number, answer in answers.items() if answer.status_code != 200] == [lost]
    assert answers[lost].status_code == 502
    assert answers[lost].json()["reason"] == "replica_died"
    assert answers[lost].json()["error_id"]
    assert Counter(number for _, number in notes.read()) == dict.fromkeys(range(20), 1)


def connected(client):
    """HTTP connections that the ingress holds."""
    port = int(client.http_address.rsplit(":", 1)[1])
    pid = client.status()["http"]["ingresses"][0]["pid"]
    connections = psutil.Process(pid).net_connections("inet")
    return sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == port for c in connections)


class Large:
    """Answers with more than any socket holds, and says that it has run."""

    def __init__(self, folder):
        self.notes = Notes(folder)

    def __call__(self, request):
        self.notes.write(0)
        self.notes.wait()
        return b"x" * 50_000_000

    def after(self, request):
        return os.getpid()


def test_an_answer_on_its_way_is_not_made_again(client, tmp_path):
    """A replica dies while its answer to a POST is on its way: the request has run, and is not run again (G3, F1)."""
    notes = Notes(tmp_path)
    client.create_backend("b", Large, str(tmp_path))
    client.create_endpoint("b", backend="b", route="/b", methods=["POST"])
    (victim,) = pids_of(client, "b")
    ingress = psutil.Process(client.status()["http"]["ingresses"][0]["pid"])
    stopped, answers = threading.Event(), []

    def stop_ingress_when_it_runs():
        wait_until(lambda: notes.by(victim), what="the request runs")
        ingress.suspend()  # a router that is slow to read: most of the answer stays in the replica
        notes.gate.touch()
        stopped.set()

    def ask():
        with http_for(client) as http:
            answers.append(http.post("/b").status_code)

    threads = [threading.Thread(target=stop_ingress_when_it_runs), threading.Thread(target=ask)]
    for thread in threads:
        thread.start()
    try:
        assert stopped.wait(WAIT_S)
        # Calls of one replica run one by one: when this one is answered, the other has returned.
        assert client.get_handle("b").options(method_name="after").remote().result() == victim
        os.kill(victim, signal.SIGKILL)
    finally:
        ingress.resume()
    for thread in threads:
        thread.join()
    assert len(notes.read()) == 1, f"the request ran {len(notes.read())} times"
    assert answers in ([502], [200])


def test_files_of_dead_replicas_are_removed(client, private_runtime_folder, tmp_path):
    """Sockets and notes of replicas that were killed or stopped do not pile up in the instance's folder (G11)."""
    client.create_backend("b", OneAtATime, str(tmp_path), config={"num_replicas": 2})
    client.create_endpoint("b", backend="b", route="/b")
    folder = next((private_runtime_folder / "pointsman").glob(".anonymous.*")) / "r"

    def entries():
        return {path.name for path in folder.iterdir()}

    before = entries()
    assert len(before) == 4
    assert all((folder / name).stat().st_mode & 0o077 == 0 for name in before)
    assert {name + ".started" for name in before if not name.endswith(".started")} < before
    victim = pids_of(client, "b")[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in pids_of(client, "b") and client.status()["backends"]["b"]["state"] == "RUNNING")
    wait_until(lambda: len(entries()) == 4, what="the dead replica's files are gone")
    assert len(entries() & before) == 2
    client.update_backend_config("b", {"num_replicas": 1})
    wait_until(lambda: len(entries()) == 2, what="the stopped replica's files are gone")
    client.delete_endpoint("b")
    client.delete_backend("b")
    wait_until(lambda: not entries(), what="nothing is left")


class Slow:
    """Fifty requests a second, one after the other."""

    def __call__(self, request):
        time.sleep(0.02)
        return "done"


def test_overload_is_shed_and_leaves_nothing(client):
    """Twenty clients ask at once, and again at once, where there is room for eight: those are answered, the others are
    told when to come again, memory stays bounded, and then all is as before (F35, BC5)."""
    client.create_backend("b", Slow, config={"max_concurrent_queries": 4, "max_queued_queries": 4})
    client.create_endpoint("b", backend="b", route="/b", methods=["POST"])
    with http_for(client) as http:
        assert http.post("/b").status_code == 200
    before = memory_of_family()
    answers, enough = [], threading.Event()

    def press():
        with http_for(client) as http:
            while not enough.is_set():
                answers.append(http.post("/b", content=b"x" * 10_000))

    threads = [threading.Thread(target=press) for _ in range(20)]
    for thread in threads:
        thread.start()
    counts = lambda: Counter(answer.status_code for answer in list(answers))  # noqa: E731
    try:
        wait_until(lambda: counts()[200] >= 100 and counts()[503] >= 100, what="a hundred answers of either kind")
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    assert set(counts()) == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert answer.json()["reason"] == "queue_full"
    with http_for(client) as http:
        wait_until(lambda: http.post("/b").status_code == 200, what="it answers again")
    assert memory_of_family() - before < 100_000_000


def memory_of_family():
    """Bytes that the processes of the instance hold."""
    return sum(process.memory_info().rss for process in family().values())
