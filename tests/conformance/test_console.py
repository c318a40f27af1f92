"""The console's API on a real instance: what it shows, what it changes, and by whose word."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from pointsman.console.app import Console
from tests.conftest import http_for


class Api:
    """Asks a console of the instance with a token; each call on a loop of its own."""

    def __init__(self, console: Console, token: str) -> None:
        self._console = console
        self._token = token

    def __call__(self, method: str, path: str, *, headers: Any = None, **given: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._console)  # type: ignore[arg-type]
            given_headers = {"authorization": f"Bearer {self._token}", **(headers or {})}
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                return await http.request(method, f"/api/v1{path}", headers=given_headers, timeout=60, **given)

        return asyncio.run(ask())


@pytest.fixture(scope="module")
def apis(client) -> Iterator[Any]:
    """Gives an API for a role; the tokens end with the module."""
    console, made = Console(client._credentials), {}

    def api(role: str) -> Api:
        if role not in made:
            made[role] = Api(console, client.create_token(f"api {role}", role))
        return made[role]

    yield api
    for role in made:
        client.revoke_token(f"api {role}")


@pytest.fixture
def api(apis) -> Api:
    return apis("operate")


def test_a_canary_and_back_by_the_api(client, api, backends, endpoint):
    """I look at a preview, give a canary its share with the ETag of what I saw, and roll back (AD5, AD7)."""
    a, b = backends.tags[:2]
    traffic = f"/endpoints/{quote(endpoint, safe='')}/traffic"
    seen = api("GET", traffic)
    assert seen.json()["weights"] == {a: 1.0}
    wanted = {"weights": {a: 0.7, b: 0.3}}
    preview = api("POST", f"{traffic}/preview", json=wanted).json()
    assert preview["flows"] == [{"from": a, "to": b, "share": pytest.approx(0.3)}]
    changed = api("PUT", traffic, json={**wanted, "shadows": {b: 0.5}}, headers={"if-match": seen.headers["etag"]})
    assert changed.status_code == 200
    assert client.get_traffic(endpoint)["shadows"] == {b: 0.5}
    assert client.get_traffic(endpoint)["weights"] == pytest.approx(wanted["weights"])
    history = api("GET", f"/endpoints/{endpoint}/history").json()
    assert [change["by"] for change in history[-1:]] == ["token api operate"]
    back = api("POST", f"/endpoints/{endpoint}/rollback", json={})
    assert back.json()["weights"] == {a: 1.0}
    assert back.headers["etag"] != changed.headers["etag"]


def test_of_two_who_change_the_same_one_is_told(client, api, backends, endpoint):
    """Two pages that saw the same shares and both change them: the second is refused and says who was first (AD7)."""
    a, b = backends.tags[:2]
    traffic = f"/endpoints/{endpoint}/traffic"
    seen = {"if-match": api("GET", traffic).headers["etag"]}
    assert api("PUT", traffic, json={"weights": {a: 0.9, b: 0.1}}, headers=seen).status_code == 200
    late = api("PUT", traffic, json={"weights": {a: 0.5, b: 0.5}}, headers=seen)
    assert late.status_code == 412
    assert "token api operate" in late.json()["detail"]
    assert client.get_traffic(endpoint)["weights"] == {a: 0.9, b: 0.1}


def test_a_change_that_is_sent_again_is_made_once(client, api, backends, endpoint):
    """A script that sends a change again, after no answer came, does not undo what came between (AD7)."""
    a, b = backends.tags[:2]
    traffic, key = f"/endpoints/{endpoint}/traffic", {"idempotency-key": f"once {endpoint}".replace(" ", "-")}
    for _ in range(2):
        answer = api("PUT", traffic, json={"weights": {a: 0.9, b: 0.1}}, headers=key)
        assert answer.status_code == 200
        client.set_traffic(endpoint, {a: 1.0})
    assert client.get_traffic(endpoint)["weights"] == {a: 1.0}
    assert len(client.traffic_history(endpoint)) == 3


def test_who_may_look_changes_nothing(client, apis, backends, endpoint):
    """With a view token everything is shown, and every change is a 403 (AD3, CR4)."""
    view, tag = apis("view"), backends.tags[0]
    for path in ("/me", "/status", "/stats", "/endpoints", "/backends", "/history", f"/backends/{tag}", "/logs"):
        assert view("GET", path).status_code == 200, path
    for method, path, body in (
        ("PUT", f"/endpoints/{endpoint}/traffic", {"weights": {tag: 1.0}}),
        ("PUT", f"/endpoints/{endpoint}/pins", {"keys": ["a"], "backend": tag}),
        ("PATCH", f"/backends/{tag}/config", {"num_replicas": 2}),
        ("PUT", "/config", {"pointsman": 1, "name": "shop"}),
    ):
        assert view(method, path, json=body).status_code == 403, path
    assert len(client.traffic_history(endpoint)) == 1


def test_a_configuration_is_changed_field_by_field(client, api, backends):
    """I change one field of a backend's configuration, and read all of them with their version (AD5)."""
    path = f"/backends/{backends.tags[0]}"
    before = api("GET", path)
    assert before.json()["config"]["max_queued_queries"] == 1000
    changed = api(
        "PATCH", f"{path}/config", json={"max_queued_queries": 999}, headers={"if-match": before.headers["etag"]}
    )
    assert changed.status_code == 200
    assert changed.json()["config"] == {**before.json()["config"], "max_queued_queries": 999}
    stale = api("PATCH", f"{path}/config", json={"max_queued_queries": 1}, headers={"if-match": before.headers["etag"]})
    assert stale.status_code == 412
    wrong = api("PATCH", f"{path}/config", json={"max_queued_querys": 1})
    assert wrong.status_code == 422
    assert "max_queued_queries" in wrong.json()["detail"]
    policy = api("PATCH", f"{path}/config", json={"autoscaling": {"policy": "os:system"}})
    assert policy.status_code == 403, policy.text
    api("PATCH", f"{path}/config", json={"max_queued_queries": 1000})


def test_keys_are_explained_and_pinned(api, backends, endpoint):
    """I ask who answers a key, now and by an earlier policy, pin it elsewhere, and let it go again (AD5)."""
    a, b = backends.tags[:2]
    path = f"/endpoints/{endpoint}"
    first = api("GET", f"{path}/traffic").json()["version"]
    api("PUT", f"{path}/traffic", json={"weights": {a: 0.0, b: 1.0}})
    explained = f"{path}/explain?key=user-1"
    assert api("GET", explained).json()["backend"] == b
    assert api("GET", f"{explained}&version={first}").json()["backend"] == a
    assert api("GET", f"{explained}&version=999999").status_code == 422
    assert api("PUT", f"{path}/pins", json={"keys": ["user-1"], "backend": a}).json()["pins"] == {"user-1": a}
    assert api("GET", explained).json()["why"] == "pin"
    elsewhere = api("DELETE", f"{path}/pins", json={"keys": ["user-1"], "backend": b})
    assert elsewhere.json()["pins"] == {"user-1": a}
    assert api("DELETE", f"{path}/pins", json={"keys": ["user-1"]}).json()["pins"] == {}


MODULE = """
class Greeter:
    def __init__(self, word):
        self.word = word

    def __call__(self, request):
        return self.word
"""


def test_a_file_is_compared_and_carried_out(client, apis, name, tmp_path):
    """A deploy token carries a configuration file out by the API; others compare one, and nothing is imported (AD5)."""
    (tmp_path / f"mod_{name}.py").write_text(MODULE + f"open({str(tmp_path / 'imported')!r}, 'w')\n")
    file = {
        "pointsman": 1,
        "name": name,
        "python_path": [str(tmp_path)],
        "backends": {name: {"code": f"mod_{name}:Greeter", "args": ["hello"]}},
        "endpoints": {name: {"route": f"/{name}", "traffic": {name: "100%"}}},
    }
    view, deploy = apis("view"), apis("deploy")
    for seen in (view("POST", "/config/diff", json=file), deploy("POST", "/config/diff?load=false", json=file)):
        assert [(one["action"], one["object"]) for one in seen.json()["changes"]] == [
            ("create", f"backend/{name}"),
            ("create", f"endpoint/{name}"),
        ]
    assert not (tmp_path / "imported").exists()
    made = deploy("PUT", "/config", json=file)
    assert made.json()["create"] == [f"backend/{name}", f"endpoint/{name}"]
    try:
        with http_for(client) as http:
            assert http.get(f"/{name}").text == "hello"
        exported = view("GET", f"/config?owner={name}").json()
        assert exported["backends"] == file["backends"]
        assert view("POST", "/config/diff", json=exported).json()["changes"] == []
        assert client.history()[-1]["by"] == "token api deploy"
        stale = deploy("PUT", "/config", json=exported, headers={"if-match": '"1"'})
        assert stale.status_code == 412
    finally:
        client.delete_endpoint(name)
        client.delete_backend(name, force=True)


def test_a_file_learns_nothing_of_the_console(apis, monkeypatch):
    """A file that names a variable of the console's process is refused: it is nobody's business (S18)."""
    monkeypatch.setenv("A_SECRET", "hunter2")
    file = {"pointsman": 1, "name": "x", "backends": {"x": {"code": "a:b", "version": "${A_SECRET}"}}}
    answer = apis("view")("POST", "/config/diff", json=file)
    assert answer.status_code == 422
    assert "A_SECRET is not set" in answer.json()["detail"]
    assert "hunter2" not in answer.text
