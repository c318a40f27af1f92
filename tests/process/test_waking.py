"""Backends without replicas in real processes: wakes while requests come, and wakes that the controller does not see to
their end."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tests.conftest import http_for, leaves_no_process, start_client, wait_until
from tests.process.load import Load
from tests.properties import tries

WAKES = tries(2, 20)
PHASES_S = (0.0, 0.05, 0.3, 0.6, 1.2)[: tries(1, 5)]
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
