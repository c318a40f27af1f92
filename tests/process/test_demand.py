"""Numbers of replicas that change while requests come: none is lost, and each runs once."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

from tests.conftest import http_for, leaves_no_process, start_client, wait_until
from tests.process.load import Load
from tests.properties import tries

EVENTS = tries(8, 50)


@pytest.fixture(scope="module")
def client():
    with leaves_no_process():
        client = start_client()
        yield client
        client.shutdown()


class Noting:
    """Notes each run in a file before it answers."""

    def __init__(self, ledger):
        self.ledger = open(ledger, "ab", buffering=0)

    async def __call__(self, request):
        import asyncio

        self.ledger.write(b"run\n")
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
            client.scale("many", draw.choice([0, 1, 2, 3]), hold_s=draw.choice([0.1, 30.0]))
            load.goes_on(draw.randrange(0, 30)) if client.status()["backends"]["many"]["wanted"] else None
            by_handle += handle.remote().result(timeout=30) == "1" if draw.random() < 0.5 else 0
        client.scale("many", 1, hold_s=30.0)
        load.goes_on(10)
    assert load.statuses == {200}
    assert ledger.read_bytes().count(b"\n") == len(load.answers) + by_handle
