"""Replicas by demand, as users see them: a burst, silence, and a number that somebody fixes."""

from __future__ import annotations

import time

import pytest

import pointsman as serve
from tests.conftest import wait_until


class Model:
    """Takes its time, one call after the other; streams as long as it is told to."""

    def __call__(self, request: serve.Request) -> str:
        time.sleep(0.1)
        return "done"

    async def ticks(self, request: serve.Request):
        for number in range(await request.body()):
            time.sleep(0.05)
            yield number


def scaling_of(client: serve.Client, tag: str) -> dict:
    return client.status()["backends"][tag]["autoscaling"]


def test_a_burst_and_then_silence(client, served, name):
    """``num_replicas="auto"``: a burst gets more replicas, silence takes them away again, no call is lost, and the
    status says what was decided, when and why (AS2, AS3, AS16)."""
    served(
        Model,
        config={
            "num_replicas": "auto",
            "autoscaling": {"max_replicas": 2, "look_back_period_s": 1, "downscale_delay_s": 1},
        },
    )
    assert client.get_backend_config(name).num_replicas == "auto"
    before = scaling_of(client, name)
    assert (before["wanted"], before["min"], before["max"], before["decisions"]) == (1, 1, 2, [])
    handle = client.get_handle(name)
    answers = [handle.remote() for _ in range(20)]
    wait_until(lambda: client.status()["backends"][name]["replicas_running"] == 2, what="a second replica")
    answers += [handle.remote() for _ in range(4)]
    assert serve.get(answers) == ["done"] * 24
    wait_until(lambda: client.status()["backends"][name]["replicas_running"] == 1, what="it goes again")
    after = scaling_of(client, name)
    assert [(one["from"], one["to"]) for one in after["decisions"]] == [(1, 2), (2, 1)]
    assert all(one["time"] and one["text"] for one in after["decisions"])
    assert after["decisions"][0]["reason"] in ("demand", "backlog")
    assert after["start_s"] > 0
    assert (after["remark"], after["blocked"], after["hold_s"]) == ("", None, None)


@pytest.mark.same_on_ray
def test_a_stream_outlives_its_replica(client, served, name):
    """A replica that leaves since somebody has fixed a smaller number ends its stream first, however short the drain
    limit is; a wrong number is refused (AS7, AS12)."""
    served(
        Model,
        config={"autoscaling": {"max_replicas": 2, "min_replicas": 0}, "graceful_shutdown_timeout_s": 0.2},
    )
    stream = client.get_handle(name).options(stream=True, method_name="ticks").remote(20).result()
    assert next(stream) == 0
    with pytest.raises(ValueError, match="may have 0 to 2 replicas"):
        client.scale(name, 3)
    client.scale(name, 0, hold_s=60)
    assert list(stream) == list(range(1, 20))
    wait_until(lambda: client.status()["backends"][name]["state"] == "IDLE", what="no replica")
    assert scaling_of(client, name)["hold_s"] > 0
    client.scale(name, 1, hold_s=0.1)
    assert serve.get(client.get_handle(name).remote()) == "done"
