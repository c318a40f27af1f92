"""Rollouts: a new version gets more traffic by itself, or none."""

from __future__ import annotations

import re

import pytest

from tests.conftest import wait_until


def steady(request):
    return "steady"


class Failing:
    def __call__(self, request):
        raise RuntimeError("this version cannot answer")


PLAN = {"min_samples": 5, "gates": {"error_rate": {}, "health": {}}}


def ask_until_it_ends(client, http, handle, endpoint):
    """Ask by HTTP and by a handle, until the endpoint's rollout has ended; returns how many of both have failed."""
    failed = 0

    def ask():
        nonlocal failed
        for _ in range(10):
            failed += http.get(f"/{endpoint}").status_code == 500
            failed += handle.remote().exception() is not None
        return client.rollout(endpoint)["ended"]

    wait_until(ask, what="the end of the rollout")
    return failed


@pytest.fixture
def handle(client, shared, standing, name):
    shared(steady)
    return client.get_handle(name)


def test_a_version_that_fails_goes_back(client, http, standing, handle, name):
    """Some users see the version that fails, by HTTP and by handles; after a few seconds nobody does, and everybody can
    read why (RO3, RO5, RO7, RO9)."""
    started = client.start_rollout(name, standing(Failing), steps=[0.3, 1.0], hold_s=60, **PLAN)
    assert (started["state"], started["weight"]) == ("running", 0.3)
    with pytest.raises(ValueError, match="abort or promote it"):
        client.start_rollout(name, standing(Failing))
    failed = ask_until_it_ends(client, http, handle, name)
    ended = client.wait_for_rollout(name, timeout=10)
    assert ended["state"] == "rolled_back"
    assert ended["reason"].startswith(
        f"rolled back at 30 % after {ended['exposed']} requests: error_rate 100 % against"
    )
    assert ended["exposed"] <= failed
    assert client.get_traffic(name)["weights"] == {standing(steady): 1.0}
    assert http.get(f"/{name}").text == "steady"
    assert ended["reason"] in client.history()[-1]["change"]
    assert client.status()["rollouts"][name]["state"] == "rolled_back"


def test_a_version_that_works_is_promoted(client, http, standing, handle, name):
    """A version that does no harm has all traffic after its last step, and nobody has done anything (RO1, RO6)."""
    client.start_rollout(name, standing(lambda request: "new"), steps=[0.5, 1.0], hold_s=1, **PLAN)
    assert ask_until_it_ends(client, http, handle, name) == 0
    assert client.wait_for_rollout(name)["state"] == "promoted"
    assert {http.get(f"/{name}").text for _ in range(10)} == {"new"}
    with pytest.raises(ValueError, match="has ended: promoted to 100 %"):
        client.abort_rollout(name)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"min_samples": 2**70}, ValueError, "min_samples must be at most 1e+15, not 1180591620717411303424"),
        ({"min_samples": 10**400}, ValueError, "min_samples must be at most 1e+15, not 1000"),
        ({"steps": [0.5] * 101}, ValueError, "at most 100 weights"),
        ({"gates": {"latency": {"p99": 10**400}}}, ValueError, "p99 of latency must be a finite number"),
        ({"gates": {"latency": {99: 1.1}}}, TypeError, "options of latency are named by str, such as 'p99', not by 99"),
        ({"gates": {"metrics": {"m": {"better": b"higher"}}}}, TypeError, "better of metrics.m must be a number"),
        ({"gates": {"metrics": {"m" * 300: {"better": "higher"}}}}, ValueError, "no name of a metric"),
        ({"alpha": 5e-324}, ValueError, "alpha must be a number of at least 1e-09"),
    ],
    ids=str,
)
def test_what_no_rollout_can_be_made_of(client, name, standing, options, error, words):
    """Numbers and names that cannot be sent, stored or counted with are refused at once, in one sentence (RO2)."""
    with pytest.raises(error, match=re.escape(words)):
        client.start_rollout(name, standing(Failing), **options)


def test_abort(client, standing, handle, name):
    """Who started a rollout can take it back at any time (RO10)."""
    client.start_rollout(name, standing(Failing))
    client.pause_rollout(name)
    assert client.rollout(name)["state"] == "paused"
    client.abort_rollout(name)
    assert client.rollout(name)["state"] == "aborted"
    assert [handle.remote().result() for _ in range(20)] == ["steady"] * 20
