"""New code for a backend that serves, the same code again, and what status and history say of it."""

from __future__ import annotations

import os
import threading

import pytest

import pointsman as serve
from pointsman.exceptions import BackendStartError
from tests.conftest import UNWATCHED
from tests.process.load import PAUSE_S


class Model:
    def __init__(self, number: int) -> None:
        if number < 0:
            raise ValueError("no such weights")
        self.number = number

    def __call__(self, request: serve.Request) -> list[int]:
        return [self.number, os.getpid()]


def pids(client: serve.Client, tag: str) -> set[int]:
    return {replica["pid"] for replica in client.status()["backends"][tag]["replicas"]}


@pytest.mark.same_on_ray
def test_the_same_again_touches_no_replica(client, http, name):
    """Deploying again what is there already makes no new version and starts no process, nor does a new config alone; a
    new argument or a word of my own for the version does (CF6, CF9, DP4)."""
    client.deploy(name, Model, 1, route=f"/{name}", config={"num_replicas": 2, **UNWATCHED})
    before, version = pids(client, name), client.status()["version"]
    was = client.status()["backends"][name]
    client.deploy(name, Model, 1)
    client.deploy(name, Model, 1, route=f"/{name}", config={"num_replicas": 2})
    client.replace_backend(name, Model, 1)
    assert (pids(client, name), client.status()["version"]) == (before, version)
    client.deploy(name, Model, 1, config={"max_queued_queries": 7})
    assert pids(client, name) == before
    assert client.get_backend_config(name).max_queued_queries == 7
    client.deploy(name, Model, 2)
    assert not pids(client, name) & before
    assert http.get(f"/{name}").json()[0] == 2
    other = pids(client, name)
    client.replace_backend(name, Model, 2, version="two")
    assert not pids(client, name) & other
    now = client.status()["backends"][name]
    assert (now["version"], now["code"]) == ("two", f"{__name__}:Model")
    assert now["digest"] != was["digest"]
    assert was["since"] < now["since"]
    mine = [line for line in client.history() if line["object"] == f"backend/{name}"]
    assert [line["change"] for line in mine] == [
        "created",
        "max_queued_queries 1000 -> 7",
        "replaced (args)",
        "replaced (version)",
    ]
    assert {line["by"] for line in mine} == {mine[0]["by"]}
    assert f"pid {os.getpid()}" in mine[0]["by"]
    client.delete_endpoint(name)
    client.delete_backend(name)


@pytest.mark.same_on_ray
def test_a_backend_is_replaced_wherever_it_serves(client, http, name):
    """A backend that several endpoints use gets new code replica by replica, and no request fails; code that does not
    come up is taken back (DP3, DP4, DP6)."""
    client.create_backend(name, Model, 0, config={"num_replicas": 2, **UNWATCHED})
    routes = [f"{name}-a", f"{name}-b"]
    for endpoint in routes:
        client.create_endpoint(endpoint, backend=name, route=f"/{endpoint}")
    client.shadow_traffic(routes[0], name, 0.1)
    stop, statuses = threading.Event(), []

    def ask(route: str) -> None:
        while not stop.wait(PAUSE_S):
            statuses.append(http.get(f"/{route}").status_code)

    threads = [threading.Thread(target=ask, args=(route,)) for route in routes]
    for thread in threads:
        thread.start()
    try:
        client.replace_backend(name, Model, 2)
        assert {http.get(f"/{route}").json()[0] for route in routes for _ in range(5)} == {2}
        with pytest.raises(BackendStartError, match="no such weights"):
            client.replace_backend(name, Model, -1)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    assert http.get(f"/{routes[1]}").json()[0] == 2
    assert client.list_endpoints()[routes[0]]["shadows"] == {name: 0.1}
    assert client.history()[-1]["change"] == "taken back: replaced (args)"
    with pytest.raises(ValueError, match=rf"did you mean '{name}'"):
        client.replace_backend(f"{name}x", Model, 1)
    for endpoint in routes:
        client.delete_endpoint(endpoint)
    client.delete_backend(name)
