"""Endpoints, traffic and deploys."""

from __future__ import annotations

import threading
from urllib.parse import quote

import pytest

import pointsman as serve
from pointsman.exceptions import BackendStartError, ServeException
from tests.conformance.traffic import assert_shares
from tests.conftest import UNWATCHED, start_client
from tests.process.load import PAUSE_S


def one(request):
    return "one"


def two(request):
    return "two"


@pytest.fixture
def pair(client, standing, name):
    """Two backends, which all tests here share, and an endpoint that uses the first."""
    first, second = standing(one), standing(two)
    client.create_endpoint(name, backend=first, route=f"/{name}")
    yield first, second
    client.delete_endpoint(name)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, TypeError, "None"),
        ({"backend": 5}, TypeError, "5"),
        ({"backend": "b", "route": 5}, TypeError, "5"),
        ({"backend": "b", "route": "no-slash"}, TypeError, "no-slash"),
        ({"backend": "b", "route": "/-/mine"}, ValueError, "/-/"),
        ({"backend": "b", "route": "/{a}{b}"}, ValueError, "segment"),
        ({"backend": "b", "route": "/{a:path}/b"}, ValueError, "last"),
        ({"backend": "b", "route": "/{a}/{a}"}, ValueError, "twice"),
        ({"backend": "b", "methods": "GET"}, TypeError, "GET"),
        ({"backend": "b", "methods": [1]}, TypeError, "1"),
        ({"backend": "b", "methods": []}, ValueError, "methods"),
        ({"backend": "no-such"}, ValueError, "no-such"),
    ],
)
def test_bad_endpoints(client, name, options, error, text):
    """An endpoint that cannot be is refused with the reason, and nothing is left behind (CE1-CE5)."""
    before = client.list_endpoints()
    with pytest.raises(error, match=text):
        client.create_endpoint(name, **options)
    assert client.list_endpoints() == before


def test_unknown_backend_suggests(client, pair, name):
    """A mistyped backend gets the nearest name (CE5)."""
    with pytest.raises(ValueError, match=rf"did you mean '{pair[0][:-1]}.'"):
        client.create_endpoint(f"{name}-x", backend=pair[0].replace("g", "gg"))


def test_conflicts(client, pair, name):
    """Names and routes are taken once; templates that match the same paths count as one (CE4, CE6, CE7, LC1)."""
    with pytest.raises(ValueError, match="same route and methods"):
        client.create_endpoint(name, backend=pair[0], route=f"/{name}", methods=["get"])
    with pytest.raises(ValueError, match=f"/{name}"):
        client.create_endpoint(f"{name}-b", backend=pair[0], route=f"/{name}")
    with pytest.raises(ValueError, match=name):
        client.create_endpoint(name, backend=pair[0], route=f"/{name}/other")
    client.create_endpoint(f"{name}-t", backend=pair[0], route=f"/{name}/{{a}}")
    with pytest.raises(ValueError, match=r"\{a\}"):
        client.create_endpoint(f"{name}-u", backend=pair[0], route=f"/{name}/{{b}}")
    client.delete_endpoint(f"{name}-t")


def test_listing(client, pair, name):
    """The list shows each endpoint as it is and forgets deleted ones (CE3, CE8, LC5)."""
    client.create_endpoint(f"{name}-h", backend=pair[1], methods=["post", "PUT", "POST"])
    listed = client.list_endpoints()
    assert listed[name] == {"route": f"/{name}", "methods": ["GET"], "traffic": {pair[0]: 1.0}, "shadows": {}}
    assert listed[f"{name}-h"]["route"] is None
    assert listed[f"{name}-h"]["methods"] == ["POST", "PUT"]
    client.delete_endpoint(f"{name}-h")
    assert f"{name}-h" not in client.list_endpoints()


def test_deleting_endpoints(client, http, pair, name, caplog):
    """A deleted endpoint is gone at once, its name and route free; an unknown one is a warning (LC2, LC8, LC9)."""
    handle = client.get_handle(name)
    assert handle.remote().result() == "one"
    client.delete_endpoint(name)
    assert http.get(f"/{name}").status_code == 404
    with pytest.raises(ServeException, match=name):
        handle.remote().result()
    assert pair[0] in client.list_backends()
    client.create_endpoint(name, backend=pair[1], route=f"/{name}")
    assert http.get(f"/{name}").text == "two"
    client.delete_endpoint("never-was")
    assert "never-was" in caplog.text


def test_headless(client, http, pair, name):
    """An endpoint without a route answers handles only, whatever its name (CL2, LC4)."""
    client.create_endpoint(f"{name}.x", backend=pair[0])
    assert client.get_handle(f"{name}.x").remote().result() == "one"
    assert http.get(f"/{name}.x").status_code == 404
    client.delete_endpoint(f"{name}.x")


@pytest.mark.parametrize("prefix", ["/", "/-/", "../", "a/b/"])
def test_headless_names_that_look_like_paths(client, http, pair, name, prefix):
    """A name is no path, whatever it looks like: without a route it answers handles only (CL1, CL2)."""
    slashed = f"{prefix}{name}x"
    client.create_endpoint(slashed, backend=pair[0])
    assert client.get_handle(slashed).remote().result() == "one"
    for path in (slashed, f"/{slashed}", f"/{name}x", "/" + quote(slashed, safe="")):
        assert http.get(path if path.startswith("/") else f"/{path}").status_code == 404
    assert slashed not in http.get("/-/routes").json()
    client.delete_endpoint(slashed)


def test_a_new_route_serves_when_create_returns(client, http, pair, name):
    """No request after create_endpoint has returned finds the route missing (LC7, CE9)."""
    for number in range(20):
        client.create_endpoint(f"{name}-{number}", backend=pair[0], route=f"/{name}/{number}")
        assert http.get(f"/{name}/{number}").status_code == 200
    for number in range(20):
        client.delete_endpoint(f"{name}-{number}")
        assert http.get(f"/{name}/{number}").status_code == 404


@pytest.mark.parametrize("way", ["http", "handle"])
def test_split(client, http, pair, name, way):
    """Traffic is split by weight, over HTTP and through handles alike (TR3, TR7, TR8)."""
    client.set_traffic(name, {pair[0]: 0.25, pair[1]: 0.75})
    handle = client.get_handle(name)
    ask = (lambda: http.get(f"/{name}").text) if way == "http" else (lambda: handle.remote().result())
    assert_shares([ask() for _ in range(1000)], {"one": 0.25, "two": 0.75})


def test_traffic_changes_hold_for_the_next_request(client, http, pair, name):
    """After set_traffic has returned, no request is answered by the old policy (TR4, TR6, CL4)."""
    handle = client.get_handle(name)
    for _ in range(10):
        for tag, answer in zip(pair, ("one", "two"), strict=True):
            client.set_traffic(name, {tag: 1})
            assert http.get(f"/{name}").text == answer
            assert handle.remote().result() == answer


def test_weight_zero(client, http, pair, name):
    """A backend at weight 0 gets nothing (TR10)."""
    client.set_traffic(name, {pair[0]: 0, pair[1]: 1})
    assert {http.get(f"/{name}").text for _ in range(100)} == {"two"}


@pytest.mark.parametrize(
    ("weights", "error", "text"),
    [
        ([1], TypeError, "dict"),
        ({"A": True}, TypeError, "True"),
        ({"A": "1"}, TypeError, "'1'"),
        ({"A": 0.5, "B": 0.6}, ValueError, "1.1"),
        ({"A": -0.5, "B": 1.5}, ValueError, "-0.5"),
        ({"A": float("nan")}, ValueError, "nan"),
        ({"A": float("inf")}, ValueError, "inf"),
        ({}, ValueError, "empty"),
        ({"no-such-backend": 1}, ValueError, "no-such-backend"),
    ],
)
def test_bad_policies(client, pair, name, weights, error, text):
    """A policy that cannot be is refused with the value, and the old one stays (TR1, TR2, F31)."""
    if isinstance(weights, dict):
        weights = {{"A": pair[0], "B": pair[1]}.get(tag, tag): weight for tag, weight in weights.items()}
    before = client.list_endpoints(), client.status()["version"]
    with pytest.raises(error, match=text):
        client.set_traffic(name, weights)
    assert (client.list_endpoints(), client.status()["version"]) == before


def test_nearly_one_is_accepted(client, pair, name):
    """Rounding of floats is no reason to refuse, and the weights are normalised (TR1, TR2)."""
    client.set_traffic(name, {pair[0]: 0.333333, pair[1]: 0.666666})
    assert sum(client.list_endpoints()[name]["traffic"].values()) == pytest.approx(1, abs=1e-12)


def test_unknown_endpoint(client, pair):
    """Traffic of an unknown endpoint is an error (TR1)."""
    with pytest.raises(ValueError, match="no-such"):
        client.set_traffic("no-such", {pair[0]: 1})


def version(number):
    def answer(request):
        return number

    return answer


def test_deploy_makes_both(client, http, name):
    """One call makes backend and endpoint (DP1)."""
    client.deploy(name, one, route=f"/{name}")
    assert http.get(f"/{name}").text == http.post(f"/{name}").text == "one"
    client.deploy(f"{name}-h", two)
    assert client.get_handle(f"{name}-h").remote().result() == "two"
    for tag in (name, f"{name}-h"):
        client.delete_endpoint(tag)
        client.delete_backend(tag)


@pytest.mark.same_on_ray
def test_deploy_again_is_a_rolling_update(client, http, name):
    """Redeploying fails no request, and after it returned only the new version answers (DP3, DP4)."""
    config = {"num_replicas": 2, "max_queued_queries": 500, "rollout_watch_s": 0.3}
    client.deploy(name, version(0), route=f"/{name}", config=config)
    stop = threading.Event()
    answers: list[tuple[int, str]] = []

    def ask():
        while not stop.wait(PAUSE_S):
            answer = http.get(f"/{name}")
            answers.append((answer.status_code, answer.text))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in (1, 2, 3):
        client.deploy(name, version(number))
        assert {client.get_handle(name).remote().result() for _ in range(10)} == {number}
    stop.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} == {200}
    config = client.get_backend_config(name)
    assert (config.num_replicas, config.max_queued_queries) == (2, 500)
    assert client.list_endpoints()[name]["route"] == f"/{name}"
    client.delete_endpoint(name)
    client.delete_backend(name)


@pytest.mark.same_on_ray
def test_a_bad_version_does_not_take_over(client, http, name):
    """A version that does not come up raises here, and the old one serves on (DP2, DP6, G7)."""

    class Bad:
        def __init__(self):
            raise RuntimeError("bad weights")

    client.deploy(name, version(1), route=f"/{name}", config=UNWATCHED)
    with pytest.raises(BackendStartError, match="bad weights"):
        client.deploy(name, Bad)
    assert http.get(f"/{name}").json() == 1
    status = client.status()["backends"][name]
    assert status["state"] == "DEPLOY_FAILED"
    assert "bad weights" in status["failure"]["traceback"]
    client.deploy(name, version(2))
    assert client.status()["backends"][name]["state"] == "RUNNING"
    client.delete_endpoint(name)
    client.delete_backend(name)
    with pytest.raises(BackendStartError):
        client.deploy(name, Bad, route=f"/{name}")
    assert name not in client.list_endpoints()
    assert name not in client.list_backends()


def test_deploy_over_a_foreign_endpoint(client, pair, name):
    """An endpoint of that name that uses other backends is not taken over (DP7)."""
    before = client.list_backends()
    with pytest.raises(ValueError, match=name):
        client.deploy(name, one)
    assert client.list_backends() == before


def test_deploy_swaps_one_by_one_without_room(engine):
    """When old and new do not fit side by side, replicas are swapped and no request fails (DP5)."""
    with start_client(engine, strict=True, location=None) as client:
        client.deploy("x", version(1), ray_actor_options={"num_gpus": 2}, config=UNWATCHED)
        handle = client.get_handle("x")
        futures = [handle.remote() for _ in range(20)]
        client.deploy("x", version(2))
        assert set(serve.get(futures)) <= {1, 2}
        assert handle.remote().result() == 2
