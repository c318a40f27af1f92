"""Numbers of replicas that change while requests come: none is lost, and each runs once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.conftest import leaves_no_process, start_client
from tests.process.load import Load
from tests.properties import tries

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
