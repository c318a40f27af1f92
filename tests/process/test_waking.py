"""Backends without replicas in real processes: wakes while requests come, and wakes that the controller does not see to
their end."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

import pointsman as serve
from pointsman.exceptions import InsufficientResourcesError
from tests.conftest import http_for, leaves_no_process, start_client, wait_until
from tests.process.load import Load
from tests.properties import is_long, tries

WAKES = tries(2, 20)
PHASES_S = (0.0, 0.05, 0.3, 0.6, 1.2)
CONSTRUCTOR_S = 0.4


@pytest.fixture(scope="module")
def client():
    with leaves_no_process():
        client = start_client()
        yield client
        client.shutdown()


class Slow:
    """A model that takes a while to load."""

    def __init__(self):
        time.sleep(CONSTRUCTOR_S)

    async def __call__(self, request):
        return str(os.getpid())


def test_wakes_under_load(client):
    """A backend is unloaded again and again while requests come: each of them waits for the next start and is answered
    (AS14, ID3, G1)."""
    client.deploy("busy", Slow, route="/busy", methods=["GET", "POST"], config={"idle_timeout_s": 600.0})
    with Load(client, "/busy") as load:
        for _ in range(WAKES):
            before = {answer.text for answer in load.answers[-20:]}
            client.unload("busy")
            load.goes_on(10)
            assert load.answers[-1].text not in before, "nothing was unloaded"
    assert load.statuses == {200}
    assert len(load.answers) == load.sent
    client.delete_endpoint("busy")
    client.delete_backend("busy")


@pytest.mark.skipif(not is_long(), reason="tests/loop has it in virtual time; make test-long runs it")
@pytest.mark.parametrize("after_s", PHASES_S)
def test_the_controller_is_killed_during_a_wake(client, after_s):
    """The controller is killed when a call has woken a backend, before its replica is launched, while it starts, or
    when it is ready: the call is answered, by the only replica (AS14, AS20, F20)."""
    client.deploy("killed", Slow, route="/killed", config={"idle_timeout_s": 600.0})
    client.unload("killed")
    answers = []
    with http_for(client) as http:
        call = threading.Thread(target=lambda: answers.append(http.get("/killed", timeout=30)))
        call.start()
        time.sleep(after_s)  # the moment of the kill: any is right
        os.kill(client.status()["controller_pid"], signal.SIGKILL)
        call.join()
    assert [answer.status_code for answer in answers] == [200]
    view = lambda: client.status()["backends"]["killed"]  # noqa: E731
    wait_until(lambda: (view()["state"], len(view()["replicas"])) == ("RUNNING", 1), what="one replica serves")
    assert str(view()["replicas"][0]["pid"]) == answers[0].text
    client.delete_endpoint("killed")
    client.delete_backend("killed")


@pytest.mark.skipif(not is_long(), reason="each turn waits until a backend is idle; make test-long runs it")
def test_two_models_share_the_room_for_one():
    """Two models take turns where one has room: each call finds its model, which takes the place of the idle one (ID2,
    RM3, AS15)."""
    with leaves_no_process():
        client = serve.start(http_options={"port": 0}, metrics_export_port=None, num_cpus=1)
        deploy(client, "one")
        wait_until(lambda: can_deploy(client, "two"), what="the other model is idle")
        with http_for(client) as http:
            for turn in range(6):
                tag = ("one", "two")[turn % 2]
                assert http.get(f"/{tag}", timeout=30).status_code == 200
                views = client.status()["backends"]
                assert [views[one]["replicas_wanted"] for one in ("one", "two")] == [1 - turn % 2, turn % 2]
        reasons = [one["reason"] for one in views["one"]["autoscaling"]["decisions"]]
        assert reasons[-3:] == ["room", "wake", "room"]
        client.shutdown()


def deploy(client, tag):
    client.deploy(tag, Slow, route=f"/{tag}", config={"idle_timeout_s": 600.0})


def can_deploy(client, tag):
    """Deploy a model unless the other one is in use still."""
    try:
        deploy(client, tag)
    except InsufficientResourcesError:
        return False
    return True
