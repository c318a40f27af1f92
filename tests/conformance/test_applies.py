"""An apply of a configuration file, as a command, with real processes."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

import pointsman as serve
from tests.applied import File, declared
from tests.conftest import wait_until


class Ranker:
    def __init__(self, weights: str) -> None:
        if weights == "missing":
            raise LookupError("no such file")
        self.weights = weights

    def __call__(self, request: object) -> str:
        return self.weights


@pytest.fixture
def file(client: serve.Client, name: str) -> Iterator[File]:
    file = File(client, name)
    yield file
    client.delete_endpoint(name)
    for tag in [tag for tag in client.list_backends() if tag.startswith(f"{name}-")]:
        client.delete_backend(tag, force=True)


def test_a_new_version_and_its_share_come_together(file: File, http: httpx.Client) -> None:
    """Backends come up, then traffic moves to them; when the answer comes all is in force, what was deleted is gone
    from the table, and a replica that need not be touched is the same process (CF6, CF7)."""
    v1 = file.backend(Ranker, "one")
    assert file.outcome(file.send(v1=v1, endpoint=file.endpoint(v1=1.0))).state == "done"
    assert http.get(f"/{file.owner}").text == "one"
    pids = file.pids("v1")
    v1 = file.backend(Ranker, "one", max_queued_queries=5)
    view = file.outcome(file.send(v1=v1, v2=file.backend(Ranker, "two"), endpoint=file.endpoint(v2=1.0)))
    assert (view.state, view.owner, view.by) == ("done", file.owner, "a test")
    assert {http.get(f"/{file.owner}").text for _ in range(5)} == {"two"}
    assert file.pids("v1") == pids
    assert file.outcome(file.send(delete=("v1",))).state == "done"
    assert file.owner + "-v1" not in file.client.status()["backends"]
    assert declared(file.client).marks[f"endpoint/{file.owner}"].fields["traffic"].owner == file.owner


def test_what_raises_takes_all_back(file: File, http: httpx.Client) -> None:
    """The outcome has the user's traceback; the other backend runs its old code again, and traffic never moved
    (CF7)."""
    file.outcome(file.send(v1=file.backend(Ranker, "one"), endpoint=file.endpoint(v1=1.0)))
    other = {"v1": file.backend(Ranker, "new"), "v2": file.backend(Ranker, "missing")}
    view = file.outcome(file.send(**other, endpoint=file.endpoint(v2=1.0)))
    assert (view.state, view.object) == ("taken back", f"backend/{file.owner}-v2")
    assert "LookupError: no such file" in view.text
    assert 'raise LookupError("no such file")' in view.traceback
    wait_until(lambda: http.get(f"/{file.owner}").text == "one", what="the old code")
    assert set(file.client.list_backends()) >= {f"{file.owner}-v1"}
    assert f"{file.owner}-v2" not in file.client.list_backends()
