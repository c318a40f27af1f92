"""Backends without replicas, as users see them: they sleep without calls, calls wake them, and so does a command."""

from __future__ import annotations

import os
import threading

import pytest

import pointsman as serve
from pointsman.exceptions import BackendStartError
from tests.conftest import UNWATCHED, wait_until


class Model:
    """Says in which process it is; with a number below 0 it cannot start."""

    def __init__(self, number: int = 0) -> None:
        if number < 0:
            raise ValueError("no such weights")
        self.number = number

    def __call__(self, request: serve.Request) -> list[int]:
        return [self.number, os.getpid()]


def state_of(client: serve.Client, tag: str) -> tuple[str, int]:
    view = client.status()["backends"][tag]
    return view["state"], view["replicas_running"]


def test_a_model_sleeps_and_its_next_call_wakes_it(client, http, served, name):
    """Without a call for its idle_timeout_s a backend has no replica; calls by HTTP and by a handle that come then wait
    for it and are answered, and none of them fails (ID1, AS14)."""
    route = served(Model, config={"idle_timeout_s": 0.6})
    first = http.get(route).json()[1]
    wait_until(lambda: state_of(client, name) == ("IDLE", 0), what="it sleeps")
    handle = client.get_handle(name)
    answers = []
    calls = [threading.Thread(target=lambda: answers.append(http.get(route))) for _ in range(3)]
    for call in calls:
        call.start()
    assert handle.remote().result()[1] != first
    for call in calls:
        call.join()
    assert [answer.status_code for answer in answers] == [200] * 3


def test_unload_and_wake(client, http, served, name):
    """``unload`` returns when the last replica is gone, ``wake`` when it is back; what may not be without replicas is
    refused; code that cannot start says so, and the code before is kept (ID3, ID4, DP6)."""
    route = served(Model, config={"idle_timeout_s": 600.0, **UNWATCHED})
    client.unload(name)
    assert state_of(client, name) == ("IDLE", 0)
    client.update_backend_config(name, {"max_queued_queries": 7})
    with pytest.raises(BackendStartError, match="no such weights"):
        client.replace_backend(name, Model, -1)
    client.replace_backend(name, Model, 2)
    client.unload(name)
    client.wake(name)
    assert state_of(client, name) == ("RUNNING", 1)
    assert http.get(route).json()[0] == 2
    client.update_backend_config(name, {"idle_timeout_s": None})
    with pytest.raises(ValueError, match="may not be at 0 replicas"):
        client.unload(name)
    with pytest.raises(ValueError, match="does not exist"):
        client.wake("nobody")
