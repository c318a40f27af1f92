"""Changing what runs: new configs, new code by hand, and what status says of it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pointsman as serve
from pointsman.exceptions import BackendStartError
from pointsman.model import Reason
from tests.conftest import wait_until


class Factor:
    """Answers with its replica, its object, what it was told last, and how often it was told."""

    def __init__(self):
        self.made = time.monotonic()
        self.told = []

    def reconfigure(self, config):
        if config == "refuse":
            raise LookupError("no such factor")
        self.told.append(config["factor"] if isinstance(config, dict) else config)

    def __call__(self, request):
        return serve.get_current_replica_tag(), self.made, self.told[-1] if self.told else None, len(self.told)


class AsyncFactor(Factor):
    async def reconfigure(self, config):
        Factor.reconfigure(self, config)


def replicas(client, name, count):
    """What each of so many replicas says, by its tag."""
    handle, seen = client.get_handle(name), {}

    def ask():
        for tag, *rest in serve.get([handle.remote() for _ in range(4 * count)]):
            seen[tag] = rest
        return len(seen) >= count

    wait_until(ask, what=f"answers of {count} replicas")
    return seen


@pytest.mark.parametrize("code", [Factor, AsyncFactor])
def test_a_value_reaches_every_replica(served, client, name, code):
    """Ray Serve 1.x's story: 123 on two replicas, still 123 on three, then 456 on all three, in the same objects;
    keys that the method does not know are its own business (RC1, RC2, RC4, RC5, RC8)."""
    served(code, config={"user_config": {"factor": 123, "comment": "first"}, "num_replicas": 2})
    two = replicas(client, name, 2)
    client.update_backend_config(name, {"num_replicas": 3})
    three = replicas(client, name, 3)
    assert [told for _, told, _ in three.values()] == [123] * 3
    client.update_backend_config(name, {"user_config": {"factor": 456, "colour": "blue", "nested": {"a": [1]}}})
    after = replicas(client, name, 3)
    assert [told for _, told, _ in after.values()] == [456] * 3
    assert {tag: made for tag, (made, *_) in three.items()} == {tag: made for tag, (made, *_) in after.items()}
    assert two.keys() < after.keys()


def test_none_is_no_config(served, client, name):
    """Set back to None, replicas that run keep what they were told, and later ones are told nothing (RC6)."""
    served(Factor, config={"user_config": 0})
    ((tag, (_, told, _)),) = replicas(client, name, 1).items()
    assert told == 0
    client.update_backend_config(name, {"user_config": None})
    client.update_backend_config(name, {"num_replicas": 2})
    both = replicas(client, name, 2)
    assert both.pop(tag)[1:] == [0, 1]
    assert [rest[1:] for rest in both.values()] == [[None, 0]]
    client.update_backend_config(name, {"user_config": ""})
    assert [rest[1] for rest in replicas(client, name, 2).values()] == ["", ""]


def plain(request):
    return "plain"


class NoReconfigure:
    def __call__(self, request):
        return "plain"


@pytest.mark.parametrize("code", [plain, NoReconfigure])
def test_code_that_cannot_be_reconfigured(served, client, name, code):
    """A user_config for a function, or a class without the method, is refused here, and nothing changes (RC3, CB8)."""
    with pytest.raises(ValueError, match="reconfigure"):
        client.create_backend(name, code, config={"user_config": 1})
    assert name not in client.list_backends()
    served(code)
    before = client.get_backend_config(name)
    with pytest.raises(ValueError, match="reconfigure"):
        client.update_backend_config(name, {"user_config": 1, "num_replicas": 2})
    assert client.get_backend_config(name) == before
    assert client.get_handle(name).remote().result() == "plain"


def test_status_says_what_was_refused(served, client, name):
    """After a refused config status names the backend, the reason and the traceback, until the next change (LC10,
    RC10)."""
    served(Factor, config={"user_config": "fine"})
    with pytest.raises(BackendStartError, match="keeps the old one") as caught:
        client.update_backend_config(name, {"user_config": "refuse"})
    assert isinstance(caught.value.__cause__, LookupError)
    assert "in reconfigure" in str(caught.value.__cause__.__cause__)
    status = client.status()["backends"][name]
    assert status["state"] == "DEPLOY_FAILED"
    assert status["failure"]["reason"] == Reason.RECONFIGURE_FAILED.value
    assert "no such factor" in status["failure"]["traceback"]
    client.update_backend_config(name, {"user_config": "better"})
    assert client.status()["backends"][name]["state"] == "RUNNING"
    assert client.status()["backends"][name]["failure"] is None


class Fragile:
    """Has a value in two halves. Its first replica that is told so fails between them, once, or for ever."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.pair = ("", "")

    def reconfigure(self, config):
        self.pair = (config, self.pair[1])
        mine = self.folder / serve.get_current_replica_tag()
        if config.startswith("break"):
            try:
                (self.folder / "broken").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                mine.touch()
                raise RuntimeError("half way")
        if mine.exists() and self.folder.joinpath("for ever").exists():
            raise RuntimeError("and not back either")
        self.pair = (config, config)

    def __call__(self, request):
        return serve.get_current_replica_tag(), self.pair


@pytest.mark.parametrize("way", ["goes back", "is replaced", "had none"])
def test_one_replica_fails_half_way(served, client, name, tmp_path, way):
    """When one of two replicas fails half way, all have the old config again: it gets it back, or is replaced if that
    fails or there was none to go back to; no answer ever shows half a change (RC9, RC10)."""
    if way == "is replaced":
        (tmp_path / "for ever").touch()
    old = {} if way == "had none" else {"user_config": "old"}
    served(Fragile, str(tmp_path), config={"num_replicas": 2, **old})
    handle = client.get_handle(name)
    before = set(replicas(client, name, 2))
    good = ("", "") if way == "had none" else ("old", "old")
    seen = []
    stop = []

    def settled():
        there = client.status()["backends"][name]["replicas"]
        kept = before & {replica["tag"] for replica in there}
        return [replica["state"] for replica in there] == ["READY"] * 2 and len(kept) == 1 + (way == "goes back")

    def ask():
        while not stop:
            seen.append(handle.remote().result()[1])

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            with pytest.raises(BackendStartError, match="half way"):
                client.update_backend_config(name, {"user_config": "break"})
            wait_until(settled, what="two replicas serve, and the broken one is among them only if it went back")
        finally:
            stop.append(True)
        asking.result()
    assert [pair for (pair,) in replicas(client, name, 2).values()] == [good, good]
    assert set(seen) <= {good, ("break", "break")}


class Gated:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.value = "old"

    async def __call__(self, request):
        import asyncio

        if request.query_params.get("wait"):
            (self.folder / "begun").touch()
            while not (self.folder / "go").exists():
                await asyncio.sleep(0.005)
        return self.value

    def reconfigure(self, config):
        self.value = config


def test_a_request_that_outlasts_the_limit(served, client, http, name, tmp_path):
    """A request that runs beyond the drain limit fails the update with TimeoutError; it goes on, and the old config is
    in force. When it has ended the update succeeds (RC9)."""
    config = {"user_config": "old", "graceful_shutdown_timeout_s": 0.3}
    route = served(Gated, str(tmp_path), config=config)
    pid = client.status()["backends"][name]["replicas"][0]["pid"]
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(http.get, route, params={"wait": "1"})
        wait_until((tmp_path / "begun").exists)
        with pytest.raises(TimeoutError, match=r"0\.3 s") as caught:
            client.update_backend_config(name, {"user_config": "new"})
        assert not isinstance(caught.value, BackendStartError)
        assert http.get(route).text == "old"
        assert client.get_backend_config(name).user_config == "old"
        assert client.status()["backends"][name]["failure"]["reason"] == Reason.RECONFIGURE_TIMEOUT.value
        (tmp_path / "go").touch()
        assert long.result().text == "old"
    client.update_backend_config(name, {"user_config": "new"})
    assert http.get(route).text == "new"
    assert [replica["pid"] for replica in client.status()["backends"][name]["replicas"]] == [pid]


def test_others_take_new_work_meanwhile(served, client, http, name, tmp_path):
    """One of two replicas still runs a long request when a new config comes: new requests are answered meanwhile, and
    none waits for it (RC9)."""
    route = served(Gated, str(tmp_path), config={"user_config": "old", "num_replicas": 2})
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(http.get, route, params={"wait": "1"})
        wait_until((tmp_path / "begun").exists)
        update = pool.submit(client.update_backend_config, name, {"user_config": "new"})
        wait_until(lambda: client.get_backend_config(name).user_config == "new")
        answers = {http.get(route).text for _ in range(100)}
        assert not update.done()
        (tmp_path / "go").touch()
        assert long.result().text == "old"
        update.result()
    assert answers <= {"old", "new"}
    assert {http.get(route).text for _ in range(20)} == {"new"}


def test_headless_names_are_free_again(client, name):
    """A deleted endpoint without a route gives its name back at once, and its backend is untouched (LC2, LC3)."""
    for tag in ("one", "two"):
        client.create_backend(f"{name}-{tag}", lambda request, tag=tag: tag)
    client.create_endpoint(name, backend=f"{name}-one")
    assert client.get_handle(name).remote().result() == "one"
    client.delete_endpoint(name)
    assert f"{name}-one" in client.list_backends()
    client.create_endpoint(name, backend=f"{name}-two")
    assert client.get_handle(name).remote().result() == "two"
    client.delete_backend(f"{name}-one")
    with pytest.raises(ValueError, match=f"{name}-one"):
        client.set_traffic(name, {f"{name}-one": 1})
    client.delete_endpoint(name)
    client.delete_backend(f"{name}-two")


def test_new_code_by_hand_loses_no_request(client, http, name):
    """New backend, set_traffic, delete the old one: requests that come all the while are answered, and afterwards by
    the new one only (RU1)."""
    client.create_backend(f"{name}-0", lambda request: "0")
    client.create_endpoint(name, backend=f"{name}-0", route=f"/{name}")
    answers, stop = [], []

    def ask():
        while not stop:
            answer = http.get(f"/{name}")
            answers.append((answer.status_code, answer.text))

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        for number in range(1, 4):
            client.create_backend(f"{name}-{number}", lambda request, number=number: str(number))
            client.set_traffic(name, {f"{name}-{number}": 1.0})
            client.delete_backend(f"{name}-{number - 1}")
            assert http.get(f"/{name}").text == str(number)
        stop.append(True)
        for one in asking:
            one.result()
    assert {status for status, _ in answers} == {200}
    client.delete_endpoint(name)
    client.delete_backend(f"{name}-3")


def test_outcomes_are_told_by_endpoint(served, client, http, name, tmp_path):
    """Each request by HTTP ends as one of four outcomes, and stats and status tell how many there were, and how many
    wait (outcomes of requests, LC10)."""
    route = served(Gated, str(tmp_path), config={"max_concurrent_queries": 1, "max_queued_queries": 1})
    assert http.get(route).status_code == 200
    assert http.delete(route).status_code == 405
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(http.get, route, params={"wait": "1"}, headers={"x-serve-timeout-s": "20"})
        wait_until((tmp_path / "begun").exists)
        waiting = pool.submit(http.get, route)
        wait_until(lambda: client.status()["endpoints"][name]["queued"] == 1, what="a request waits")
        assert http.get(route).status_code == 503
        (tmp_path / "go").touch()
        assert running.result().status_code == waiting.result().status_code == 200
    wait_until(lambda: client.status()["endpoints"][name]["queued"] == 0)
    seen = client.stats()["endpoints"][name]
    assert seen["http_outcomes"] == {"delivered": 3, "refused": 2, "failed": 0, "aborted": 0}
    assert seen["requests"] == 4  # the 405 never came as far as to a router
