"""Changes of running code while requests come: none fails, and after a call has returned the old version is gone."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.conftest import http_for, leaves_no_process, start_client, wait_until
from tests.process.load import Load
from tests.properties import tries


@pytest.fixture(scope="module")
def client():
    with leaves_no_process():
        client = start_client()
        yield client
        client.shutdown()


class Version:
    """Answers with the number that it was configured with last, or else was made with."""

    def __init__(self, number=0):
        self.number = number

    async def reconfigure(self, config):
        self.number = -1
        import asyncio

        await asyncio.sleep(0.001)
        self.number = config["number"]

    async def __call__(self, request):
        return str(self.number)


def test_a_hundred_reconfigures(client):
    """I change a parameter a hundred times while requests come: each is answered, none shows half a change, and after
    an update has returned none shows an older value (RC2, RC9, G1)."""
    client.deploy("value", Version, route="/value", config={"num_replicas": 2, "user_config": {"number": 0}})
    pids = {replica["pid"] for replica in client.status()["backends"]["value"]["replicas"]}
    returned = []
    with Load(client, "/value") as load:
        for number in range(1, 101):
            client.update_backend_config("value", {"user_config": {"number": number}})
            returned.append((load.sent, number))
        load.goes_on(20)
    assert load.statuses == {200}
    assert {int(answer.text) for answer in load.answers} <= set(range(101))
    for sent, number in returned:
        assert load.late(sent, number) == []
    assert {replica["pid"] for replica in client.status()["backends"]["value"]["replicas"]} == pids
    client.delete_endpoint("value")
    client.delete_backend("value")


REDEPLOYS = tries(4, 10)


def test_one_redeploy_after_the_other(client):
    """I deploy new code, arguments, config and options again and again while requests come: each is answered by one
    version, and after a deploy has returned only by the newest (DP3, DP4, G1)."""
    config = {"num_replicas": 2, "rollout_watch_s": 0.1}
    client.deploy("code", Version, 0, route="/code", methods=["GET", "POST"], config=config)
    returned = []
    with Load(client, "/code", threads=2) as load:
        for number in range(1, REDEPLOYS + 1):
            changes = {"num_replicas": 1 + number % 2, "max_queued_queries": 500 + number}
            client.deploy("code", Version, number, config=changes, ray_actor_options={"num_cpus": number / 100})
            returned.append((load.sent, number))
        load.goes_on(20)
    assert load.statuses == {200}
    assert {int(answer.text) for answer in load.answers} <= set(range(REDEPLOYS + 1))
    for sent, number in returned:
        assert load.late(sent, number) == []
    now = client.get_backend_config("code")
    assert (now.num_replicas, now.max_queued_queries, now.rollout_watch_s) == (1, 500 + REDEPLOYS, 0.1)
    client.delete_endpoint("code")
    client.delete_backend("code")


class Holds:
    """Ends when told."""

    def __init__(self, folder):
        self.folder = Path(folder)

    async def __call__(self, request):
        import asyncio

        if request.query_params.get("hold"):
            (self.folder / f"begun-{os.getpid()}").touch()
            while not (self.folder / "go").exists():
                await asyncio.sleep(0.005)
        return str(os.getpid())


def test_scaling_in_waits_for_what_runs(client, tmp_path):
    """I scale in while a replica is busy with a long request: the request is answered by that replica, new ones go to
    the other, and the call returns when the replica has gone (DR3, DR5, SO7)."""
    client.deploy("hold", Holds, str(tmp_path), route="/hold", config={"num_replicas": 2})
    with http_for(client) as http, ThreadPoolExecutor(3) as pool:
        held = [pool.submit(http.get, "/hold", params={"hold": "1"}) for _ in range(2)]  # one on each, the least busy
        wait_until(lambda: len(list(tmp_path.glob("begun-*"))) == 2, what="a request runs on each replica")
        scaling = pool.submit(client.update_backend_config, "hold", {"num_replicas": 1})
        wait_until(lambda: client.status()["backends"]["hold"]["replicas_running"] == 1)
        one = {http.get("/hold").text for _ in range(20)}
        assert len(one) == 1
        assert not scaling.done()
        (tmp_path / "go").touch()
        answers = [answer.result() for answer in held]
        scaling.result()
    assert [answer.status_code for answer in answers] == [200, 200]
    (gone,) = {answer.text for answer in answers} - one
    assert not psutil.pid_exists(int(gone))
    client.delete_endpoint("hold")
    client.delete_backend("hold")


class HangsLater:
    """The first replicas come up; later ones never do."""

    def __init__(self, folder):
        path = Path(folder) / "hang"
        while path.exists():
            time.sleep(0.01)

    def __call__(self, request):
        return str(os.getpid())


def test_one_of_two_replicas_is_dead_and_its_restart_hangs(client, tmp_path):
    """A replica dies and the one that shall replace it hangs in its constructor: the other serves everything, other
    changes go on, and once the constructor returns there are two again (FT3, FT4, CL6)."""
    client.deploy("half", HangsLater, str(tmp_path), route="/half", config={"num_replicas": 2})
    (tmp_path / "hang").touch()
    victim, other = (replica["pid"] for replica in client.status()["backends"]["half"]["replicas"])
    with Load(client, "/half", methods=("GET",)) as load:
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: any(r["state"] == "STARTING" for r in client.status()["backends"]["half"]["replicas"]))
        sent = load.sent
        load.goes_on(200)
        client.create_endpoint("half-too", backend="half", route="/half-too")
    assert load.statuses == {200}
    assert {answer.text for answer in load.answers if answer.number > sent} == {str(other)}
    status = client.status()["backends"]["half"]
    assert (status["state"], status["replicas_running"]) == ("UNHEALTHY", 1)
    assert status["failure"]["reason"] == "replica_died"
    (tmp_path / "hang").unlink()
    wait_until(lambda: client.status()["backends"]["half"]["state"] == "RUNNING")
    for endpoint in ("half", "half-too"):
        client.delete_endpoint(endpoint)
    client.delete_backend("half")


def test_shutdown_waits_for_what_runs(tmp_path):
    """I end an instance while requests run, by HTTP and by handle: they are answered first, and new ones find nobody
    (DR5, IN12)."""
    client = start_client()
    client.deploy("hold", Holds, str(tmp_path), route="/hold")
    status = client.status()
    ingress = psutil.Process(status["http"]["ingresses"][0]["pid"])
    pids = [ingress.pid, status["controller_pid"], status["backends"]["hold"]["replicas"][0]["pid"]]
    with http_for(client) as http, ThreadPoolExecutor(2) as pool:
        held = pool.submit(http.get, "/hold", params={"hold": "1"})
        future = client.get_handle("hold").remote(hold="1")
        wait_until(lambda: client.stats()["backends"]["hold"]["processing"] == 2)
        ending = pool.submit(client.shutdown)

        def listens():
            return any(c.status == psutil.CONN_LISTEN for c in ingress.net_connections("inet"))

        wait_until(lambda: not listens(), what="the HTTP server takes no new connections")
        assert not ending.done()
        (tmp_path / "go").touch()
        assert held.result().status_code == 200
        assert future.result() == held.result().text
        ending.result()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
