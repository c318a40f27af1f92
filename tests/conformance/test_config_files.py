"""Configuration files, applied to an instance with real processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import pointsman as serve
from pointsman.configfile.applying import apply_file, export_instance
from pointsman.configfile.problems import RefusedError, TakenBackError
from pointsman.configfile.yamltree import write_yaml
from tests.conftest import wait_until
from tests.unit.configuring import EXAMPLE

RANKING = """\
import os
import settings

class Ranker:
    def __init__(self, weights):
        self.weights = open(weights).read()
        self.config = None

    def reconfigure(self, config):
        self.config = config

    def __call__(self, request):
        return [self.weights, self.config, os.environ.get("HUB"), settings.VALUE]
"""
#: New versions need not prove themselves for seconds here.
QUICK = "rollout_watch_s: 0.1, "


@pytest.fixture
def shop(client: serve.Client, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example of the documentation in a folder, with names and a route of the test's own. It has no environment of
    its own to install, and says nothing of the instance."""
    (tmp_path / "ranking.py").write_text(RANKING)
    (tmp_path / "settings.py").write_text("VALUE = 1\n")
    for number in (1, 2):
        (tmp_path / f"weights-{number}.bin").write_text(f"w{number}")
    lines = [line for line in EXAMPLE.splitlines() if not line.startswith("instance:") and " env: " not in line]
    text = "\n".join(lines).replace("ranker-", f"{name}-").replace("/rank", f"/{name}").replace("rank:", f"{name}:")
    file = tmp_path / "shop.yaml"
    file.write_text(text.replace("name: shop", f"name: {name}").replace("user_config:", QUICK + "user_config:"))
    monkeypatch.setenv("HUB_TOKEN", "token")
    monkeypatch.setenv("HUB", "token")
    yield file
    file.write_text(f"pointsman: 1\nname: {name}\n")
    apply_file(client, file)
    assert not [tag for tag in client.list_backends() if tag.startswith(name)]


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def pids(client: serve.Client, name: str) -> dict[str, set[int]]:
    """The processes of each backend of a test."""
    backends = client.status()["backends"]
    return {
        tag.removeprefix(f"{name}-"): {replica["pid"] for replica in backends[tag]["replicas"]}
        for tag in backends
        if tag.startswith(name)
    }


def test_the_example_runs(client: serve.Client, http: httpx.Client, name: str, shop: Path) -> None:
    """The file of the documentation is served as it says; applied again it touches no replica, and with one field
    changed only the replicas of that backend (CF6, CF9)."""
    first = apply_file(client, shop)
    assert first.by_action()["create"] == [f"backend/{name}-v1", f"backend/{name}-v2", f"endpoint/{name}"]
    answers: list[Any] = []

    def both() -> bool:
        answers.append(http.post(f"/{name}").json())
        return ["w1", {"threshold": 0.5}, None, 1] in answers and ["w2", None, "token", 1] in answers

    wait_until(both, what="answers of both")
    assert http.get(f"/{name}").status_code == 405
    before = pids(client, name)
    assert {tag: len(there) for tag, there in before.items()} == {"v1": 2, "v2": 1}
    again = apply_file(client, shop)
    assert (again.changes, again.version) == ((), first.version)
    assert client.status()["version"] == first.version
    edit(shop, 'version: "2"', 'version: "3"')
    edit(shop, "threshold: 0.5", "threshold: 0.75")
    assert [one.action for one in apply_file(client, shop).changes] == ["update", "replace"]
    after = pids(client, name)
    assert after["v1"] == before["v1"]
    assert after["v2"] - before["v2"]
    assert http.post(f"/{name}", headers={"x-serve-shard-key": _key_of(client, name, f"{name}-v1")}).json()[1] == {
        "threshold": 0.75
    }


def _key_of(client: serve.Client, endpoint: str, backend: str) -> str:
    """A shard key that a backend answers."""
    keys = (f"user-{number}" for number in range(1000))
    return next(key for key in keys if client.explain(endpoint, shard_key=key)["backend"] == backend)


@pytest.mark.same_on_ray
def test_a_module_is_saved(client: serve.Client, http: httpx.Client, name: str, shop: Path) -> None:
    """A module that the code imports counts as code, and one that it does not import counts for nothing (CF9)."""
    apply_file(client, shop)
    before = pids(client, name)
    (shop.parent / "other.py").write_text("VALUE = 2\n")
    (shop.parent / "README.md").write_text("2\n")
    assert not apply_file(client, shop).changes
    (shop.parent / "settings.py").write_text("VALUE = 2\n")
    outcome = apply_file(client, shop)
    assert [(one.action, [f.field for f in one.fields]) for one in outcome.changes] == [("replace", ["content"])] * 2
    after = pids(client, name)
    assert all(after[tag] - before[tag] for tag in after)
    assert http.post(f"/{name}").json()[3] == 2


@pytest.mark.same_on_ray
def test_somebody_moves_traffic_and_somebody_else_applies(client: serve.Client, name: str, shop: Path) -> None:
    """What was moved by hand is a conflict, with who did it; what cannot come up leaves all as it is, and shows the
    traceback (CF7, CF10)."""
    apply_file(client, shop)
    client.set_traffic(name, {f"{name}-v1": 1.0})
    with pytest.raises(RefusedError, match="traffic: the file has") as refused:
        apply_file(client, shop)
    [conflict] = refused.value.conflicts
    assert (conflict.object, conflict.field, conflict.live) == (f"endpoint/{name}", "traffic", {f"{name}-v1": 1.0})
    assert "pid" in conflict.by
    edit(shop, f"traffic: {{{name}-v1: 95%, {name}-v2: 5%}}", f"initial_traffic: {{{name}-v1: 95%, {name}-v2: 5%}}")
    edit(shop, "weights-2.bin", "missing.bin")
    before = pids(client, name)
    with pytest.raises(TakenBackError) as failed:
        apply_file(client, shop)
    assert failed.value.operation.object == f"backend/{name}-v2"
    assert "FileNotFoundError" in failed.value.operation.traceback
    wait_until(lambda: pids(client, name) == before, what="the replicas as they were")
    assert client.get_traffic(name)["weights"] == {f"{name}-v1": 1.0}
    edit(shop, "missing.bin", "weights-2.bin")
    assert not apply_file(client, shop).changes


@pytest.mark.same_on_ray
def test_an_exported_file(client: serve.Client, name: str, shop: Path) -> None:
    """What runs becomes a file, which finds nothing to do (CF13)."""
    apply_file(client, shop)
    exported = shop.with_name("exported.yaml")
    exported.write_text(write_yaml(export_instance(client, name).content))
    assert "${HUB}" in exported.read_text()
    outcome = apply_file(client, exported)
    assert (outcome.changes, outcome.is_noted) == ((), True)
