"""Environments that are made from requirements: made by real installers, used by real backends, removed by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pointsman as serve
from pointsman.environments.requirements import MARK, MIN_UNUSED_S, stored_environments
from tests.conftest import WAIT_S, start_client
from tests.elsewhere import versions
from tests.environments import other_python

PROGRAM = str(Path(sys.executable).with_name("pointsman"))
SEMVER = ["semver==2.13.0"]


@pytest.fixture(scope="module")
def client() -> Iterator[serve.Client]:
    with start_client() as client:
        yield client


@pytest.fixture
def tag(client: serve.Client, name: str) -> Iterator[str]:
    """The tag of a backend that is removed afterwards."""
    yield name
    client.delete_endpoint(name)
    client.delete_backend(name, force=True)


def env(*arguments: str) -> list[dict[str, object]]:
    """What ``pointsman env`` says, by interpreter."""
    done = subprocess.run([PROGRAM, "env", *arguments, "--json"], capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr
    report: list[dict[str, object]] = json.loads(done.stdout)
    return report


def prefixes() -> set[Path]:
    return {kept.prefix for kept in stored_environments()}


def test_from_requirements_to_an_answer(client: serve.Client, tag: str) -> None:
    """Whoever names packages gets a backend that has them, in an environment that was made for it (DM1, DM5)."""
    client.create_backend(tag, versions, env=serve.Requirements(SEMVER))
    client.create_endpoint(tag, backend=tag)
    version, new_kind, executable, prefix = client.get_handle(tag).remote().result()
    assert (version, new_kind) == ("2.13.0", False)
    assert Path(prefix) in prefixes()
    shown = client.status()["backends"][tag]["environment"]
    assert shown == {
        "kind": "requirements",
        "name": "semver==2.13.0",
        "python": executable,
        "version": ".".join(map(str, sys.version_info[:3])),
    }


def test_several_at_once_make_one(client: serve.Client) -> None:
    """Backends that come at the same moment share one environment: one of them makes it, the others wait (DM1)."""
    before, errors = prefixes(), []

    def create(tag: str) -> None:
        try:
            client.create_backend(tag, versions, env=serve.Requirements(["semver==2.10.2"]))
        except Exception as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    tags = [f"at-once-{number}" for number in range(3)]
    threads = [threading.Thread(target=create, args=(tag,)) for tag in tags]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    pythons = {client.status()["backends"][tag]["environment"]["python"] for tag in tags}
    assert len(pythons) == len(prefixes() - before) == 1
    for tag in tags:
        client.delete_backend(tag, force=True)


def test_with_pip_and_another_python(client: serve.Client, tag: str) -> None:
    """Where there is no uv, venv and pip make the environment, on any Python that replicas can run on (DM1, DM6)."""
    env = serve.Requirements(SEMVER, python=other_python(), installer="pip")
    client.create_backend(tag, versions, env=env)
    client.create_endpoint(tag, backend=tag)
    assert client.get_handle(tag).remote().result()[0] == "2.13.0"
    assert client.status()["backends"][tag]["environment"]["version"] != ".".join(map(str, sys.version_info[:3]))


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_requirements_that_cannot_be_met(client: serve.Client, name: str, installer: str) -> None:
    """A version that does not exist is an error with the installer's reason; nothing is registered or left (DM6)."""
    before = prefixes()
    wanted = serve.Requirements(["semver==99.0"], installer=installer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"environment of semver==99.0 could not be made.*semver==99") as caught:
        client.create_backend(name, versions, env=wanted)
    assert "\n" not in str(caught.value)
    assert prefixes() == before
    assert name not in client.list_backends()


def test_python_that_is_none(client: serve.Client, name: str) -> None:
    """An interpreter that is not there is named before anything is made (DM6)."""
    with pytest.raises(ValueError, match="/gone/python"):
        client.create_backend(name, versions, env=serve.Requirements(SEMVER, python="/gone/python"))


def test_taken_tag_makes_nothing(client: serve.Client, tag: str) -> None:
    """A tag that is taken is refused before minutes are spent on an environment (CB1)."""
    client.create_backend(tag, versions, env=serve.Requirements(SEMVER))
    before = prefixes()
    with pytest.raises(ValueError, match="exists already"):
        client.create_backend(tag, versions, env=serve.Requirements(["semver==2.9.0"]))
    assert prefixes() == before


def test_prune(client: serve.Client, tag: str) -> None:
    """`pointsman env prune` removes what no backend uses, and leaves alone what one uses or was just asked for."""
    client.create_backend(tag, versions, env=serve.Requirements(SEMVER))
    used = client.status()["backends"][tag]["environment"]["python"]
    client.create_backend("pruned", versions, env=serve.Requirements(["semver==2.8.1"]))
    unused = client.status()["backends"]["pruned"]["environment"]["python"]
    client.delete_backend("pruned", force=True)
    states = {one["python"]: one["state"] for one in env("list")}
    assert (states[used], states[unused]) == ("in use", "unused")
    assert {one["python"]: one["state"] for one in env("prune")}[unused] == "unused"
    long_ago = os.stat(Path(unused).parents[1] / MARK).st_mtime - MIN_UNUSED_S - 1
    for python in (used, unused):
        os.utime(Path(python).parents[1] / MARK, (long_ago, long_ago))
    assert {one["python"]: one["state"] for one in env("prune", "--unused-for", "1")}[unused] == "unused"
    states = {one["python"]: one["state"] for one in env("prune")}
    assert (states[used], states[unused]) == ("in use", "removed")
    assert os.path.exists(used)
    assert not os.path.exists(unused)
