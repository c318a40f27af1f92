"""Several detached instances side by side, from a shell."""

from __future__ import annotations

import json

import httpx
import psutil
import pytest

import pointsman as serve
from tests.process.test_cli import assert_one_line, pointsman, printed_by, start_detached, status_of


@pytest.fixture
def two(name):
    """Names of two detached instances that run."""
    names = f"{name}.a", f"{name}.b"
    for one in names:
        start_detached(one)
    yield names
    for one in names:
        pointsman("shutdown", "--name", one)


def listed():
    return {one["name"]: one for one in json.loads(printed_by("list", "--json"))}


def test_side_by_side(two):
    """I run two instances with equal names of endpoints in them: each command is about the one that I name, and ending
    one leaves the other; started again, the ended one has nothing of before (IN6, IN12, IN15, FT10, FT11)."""
    first, second = two
    for one in two:
        serve.connect(one).deploy("same", lambda request, one=one: one, route="/same")
    shown = listed()
    for one in two:
        status = status_of(one)
        assert status["name"] == one
        assert shown[one]["http"] == status["http"]["address"]
        assert httpx.get(f"{shown[one]['http']}/same").text == one
        assert httpx.get(f"{shown[one]['metrics']}/metrics").status_code == 200
    table = pointsman("list").stdout
    assert all(one in table and shown[one]["http"] in table for one in two)
    assert_one_line(pointsman("status"), "'default'", first, second)
    assert_one_line(pointsman("shutdown"), "'default'", first, second)
    assert pointsman("shutdown", "--name", first).returncode == 0
    assert first not in listed()
    assert httpx.get(f"{shown[second]['http']}/same").text == second
    assert_one_line(pointsman("status", "--name", first), second)
    start_detached(first)
    assert status_of(first)["endpoints"] == {}


def test_a_restart_brings_all_back(name, tmp_path):
    """I start an instance again on its state folder, from a shell: when the command returns, what I had deployed
    serves; what cannot start any more does not keep the rest from it (IN10, FT8)."""
    model = tmp_path / "model"
    model.write_text("weights")

    class Model:
        def __init__(self, path):
            with open(path) as file:
                self.weights = file.read()

        def __call__(self, request):
            return self.weights

    state = str(tmp_path / "state")
    start_detached(name, "--state-dir", state)
    client = serve.connect(name)
    client.deploy("gone", Model, str(model), route="/gone")
    client.deploy("there", lambda request: "there", route="/there", config={"num_replicas": 2})
    supervisor = listed()[name]["pid"]
    process = psutil.Process(supervisor)
    process.terminate()
    process.wait(30)
    assert name not in listed()
    model.unlink()
    start_detached(name, "--state-dir", state)
    status = status_of(name)
    assert status["backends"]["there"]["replicas_running"] == 2
    assert httpx.get(f"{status['http']['address']}/there").text == "there"
    gone = status["backends"]["gone"]
    assert gone["state"] == "UNHEALTHY"
    assert "FileNotFoundError" in gone["failure"]["traceback"]
    assert "FileNotFoundError" in pointsman("status", "--name", name).stdout
    assert pointsman("shutdown", "--name", name).returncode == 0
