"""Numbers of replicas that change while requests come: none is lost, and each runs once."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from tests.conftest import leaves_no_process, start_client, wait_until
from tests.process.load import Load
from tests.properties import PROFILE, tries

EVENTS = tries(5, 50)


@pytest.fixture(scope="module")
def client():
    with leaves_no_process():
        client = start_client()
        yield client
        client.shutdown()


class Noting:
    """Notes each run in a file before it answers."""

    def __init__(self, ledger):
        import os

        self.ledger = os.open(ledger, os.O_WRONLY | os.O_APPEND)

    async def __call__(self, request):
        import asyncio
        import os

        os.write(self.ledger, b"run\n")
        await asyncio.sleep(0.01)
        return "1"


def test_changes_of_the_number_under_load_lose_nothing(client, tmp_path: Path) -> None:
    """I have a backend scaled up and down, to zero and back, again and again while requests come over HTTP and by a
    handle: each is answered, each ran once, and none waits for longer than a start (AS7, AS14, G1)."""
    ledger = tmp_path / "ledger"
    ledger.touch()
    scaled = {"min_replicas": 0, "max_replicas": 3, "initial_replicas": 1}
    client.create_backend("many", Noting, str(ledger), config={"autoscaling": scaled})
    client.create_endpoint("many", backend="many", route="/many", methods=["GET", "POST"])
    handle = client.get_handle("many")
    draw, by_handle = random.Random(11), 0
    with Load(client, "/many") as load:
        for _ in range(EVENTS):
            number = draw.choice([0, 1, 2, 3])
            client.scale("many", number, hold_s=30.0 if number else 0.2)  # then calls wake it
            if draw.random() < 0.5:
                by_handle += handle.remote().result(timeout=30) == "1"
            load.goes_on(draw.randrange(1, 30))
        client.scale("many", 1, hold_s=30.0)
        load.goes_on(10)
    assert load.statuses == {200}
    assert ledger.read_bytes().count(b"\n") == len(load.answers) + by_handle


class Asking:
    """Asks another backend by a handle, on its loop."""

    def __init__(self, endpoint):
        import pointsman as serve

        self.handle = serve.connect().get_handle(endpoint, sync=False)

    async def __call__(self, request):
        return await (await self.handle.remote())


def test_whoever_calls_wakes(client) -> None:
    """A backend without replicas is woken by another backend that calls it, and by a script with an event loop of its
    own, as by the web and by sync handles (AS14)."""
    client.create_backend("sleeps", Answering, config={"autoscaling": {"min_replicas": 0}})
    client.create_endpoint("sleeps", backend="sleeps")
    client.create_backend("asks", Asking, "sleeps")
    client.create_endpoint("asks", backend="asks")
    asks, own = client.get_handle("asks"), client.get_handle("sleeps", sync=False)

    async def by_own_loop() -> str:
        return await (await own.remote())

    for ask in (lambda: asks.remote().result(timeout=30), lambda: asyncio.run(by_own_loop())):
        client.unload("sleeps")
        assert client.status()["backends"]["sleeps"]["state"] == "IDLE"
        assert ask() == "answer"


class Answering:
    def __call__(self, request):
        return "answer"


class Blocking:
    """Is async, and blocks its event loop all the same."""

    async def __call__(self, request):
        import time

        time.sleep(0.05)


@pytest.mark.skipif(PROFILE == "gate", reason="takes a quarter of a minute: make test-long has it")
def test_a_blocked_event_loop_is_full(client) -> None:
    """An async model that computes on its loop gets a second replica, though it has few calls (AS6)."""
    config = {"health_check_period_s": 0.25, "autoscaling": {"max_replicas": 2}}
    client.create_backend("blocks", Blocking, config=config)
    client.create_endpoint("blocks", backend="blocks", route="/blocks", methods=["GET", "POST"])
    with Load(client, "/blocks"):
        wait_until(lambda: scaling_of(client, "blocks")["wanted"] == 2, what="a second replica is wanted", timeout_s=60)
    (decision,) = scaling_of(client, "blocks")["decisions"]
    assert decision["text"].startswith("an event loop is blocked")


def scaling_of(client, backend: str) -> dict:
    return client.status()["backends"][backend]["autoscaling"]
