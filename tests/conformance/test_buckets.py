"""Batches by length and for a target latency, and members of a batch that fail alone."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

import pointsman as serve
from tests.conftest import wait_until


class ByLength:
    """Answers with all the texts that came together."""

    def __init__(self, folder=None):
        self.folder = Path(folder) if folder else None

    @serve.accept_batch(bucket_by=lambda request: len(request.body()))
    def __call__(self, requests):
        if self.folder:
            (self.folder / "begun").touch()
            while not (self.folder / "go").exists():
                time.sleep(0.005)
        return [[other.body() for other in requests]] * len(requests)


class ByLengthAsync:
    def __init__(self, folder=None):
        pass

    @serve.accept_batch(bucket_by=lambda request: len(request.body()))
    async def __call__(self, requests):
        bodies = [await request.body() for request in requests]
        return [bodies] * len(requests)


@pytest.mark.parametrize("code", [ByLength, ByLengthAsync], ids=["def", "async"])
def test_buckets(served, client, name, code):
    """With ``bucket_by`` only requests that are alike share a batch, and each gets its own answer (BA6, BA3)."""
    served(code, config={"max_batch_size": 3, "batch_wait_timeout": 60})
    handle = client.get_handle(name)
    texts = ["a", "long", "b", "word", "c", "text"]
    answers = serve.get([handle.remote(text) for text in texts])
    assert answers == [["a", "b", "c"], ["long", "word", "text"]] * 3


def test_buckets_of_what_waits(served, client, name, tmp_path):
    """What waits behind a busy replica is taken bucket by bucket (BA6, BA10)."""
    served(ByLength, str(tmp_path), config={"max_batch_size": 10})
    handle = client.get_handle(name)
    first = handle.remote("first")
    wait_until((tmp_path / "begun").exists)
    rest = [handle.remote(text) for text in ("a", "long", "b", "word")]
    (tmp_path / "go").touch()
    assert first.result() == ["first"]
    for text, answer in zip(("a", "long", "b", "word"), serve.get(rest), strict=True):
        assert text in answer
        assert {len(other) for other in answer} == {len(text)}


@pytest.mark.parametrize("code", [ByLength, ByLengthAsync], ids=["def", "async"])
def test_a_request_that_fits_no_bucket(served, client, http, name, code):
    """A request of which ``bucket_by`` can make nothing is an error of its own, over a handle and HTTP (BA5)."""
    route = served(code, config={"max_batch_size": 4})
    handle = client.get_handle(name)
    futures = [handle.remote("ok"), handle.remote(5), handle.remote("ok")]
    with pytest.raises(TypeError, match="len"):
        futures[1].result()
    assert set(futures[0].result() + futures[2].result()) == {"ok"}
    assert handle.remote("again").result() == ["again"]
    assert http.post(route, content=b"bytes").json() == ["bytes"]


class Picky:
    """Refuses some members of a batch, and says which sizes it saw."""

    @serve.accept_batch
    def __call__(self, requests):
        return [self.one(request, len(requests)) for request in requests]

    def one(self, request, size):
        text = request.body()
        text = text.decode() if isinstance(text, bytes) else text
        if text.startswith("bad"):
            return LookupError(f"{text} of {size}")
        return f"{text} of {size}"


def test_a_member_fails_alone(served, client, name):
    """An exception object among a batch's answers is raised at its own caller, with its class (BA5, HA4)."""
    served(Picky, config={"max_batch_size": 4, "batch_wait_timeout": 60})
    handle = client.get_handle(name)
    futures = [handle.remote(text) for text in ("a", "bad1", "b", "bad2")]
    assert [futures[0].result(), futures[2].result()] == ["a of 4", "b of 4"]
    for future, text in ((futures[1], "bad1 of 4"), (futures[3], "bad2 of 4")):
        with pytest.raises(LookupError, match=text) as caught:
            future.result()
        assert type(caught.value) is LookupError


def explode():
    raise ArithmeticError("this cannot be read")


class Unreadable:
    def __reduce__(self):
        return explode, ()


@serve.accept_batch
def count_sync(requests):
    return [len(requests)] * len(requests)


@serve.accept_batch
async def count_async(requests):
    return [len(requests)] * len(requests)


@pytest.mark.parametrize("code", [count_sync, count_async], ids=["def", "async"])
def test_an_argument_that_cannot_be_read_harms_nobody_else(served, client, name, code):
    """A request whose argument raises while it is unpacked fails; the others of its batch are answered (BA5)."""
    served(code, config={"max_batch_size": 3, "batch_wait_timeout": 60})
    handle = client.get_handle(name)
    futures = [handle.remote(argument) for argument in ("a", Unreadable(), "b")]
    assert [futures[0].result(), futures[2].result()] == [2, 2]
    with pytest.raises(ArithmeticError, match="this cannot be read"):
        futures[1].result()


def test_a_member_fails_alone_over_http(served, client, http, name):
    """Over HTTP the same is a 500 that names the class, in one batch with handle calls that succeed (BA5, BA9, HE1)."""
    route = served(Picky, config={"max_batch_size": 2, "batch_wait_timeout": 60})
    fine = client.get_handle(name).remote("a")
    answer = http.post(route, content="bad")
    assert answer.status_code == 500
    assert "LookupError" in answer.json()["error"]
    assert answer.json()["error_id"] == answer.headers["x-request-id"]
    assert "of 2" not in answer.text
    assert fine.result() == "a of 2"


def test_target_latency(served, client, name):
    """A target in place of a wait is taken, shown, changed and taken back, and requests are served (BC1, BA12)."""
    served(Picky, config={"max_batch_size": 8, "target_latency_ms": 50})
    handle = client.get_handle(name)
    assert client.get_backend_config(name).target_latency_ms == 50
    for _ in range(10):
        answers = serve.get([handle.remote(f"n{number}") for number in range(20)])
        assert [answer.split()[0] for answer in answers] == [f"n{number}" for number in range(20)]
        assert all(1 <= int(answer.split()[2]) <= 8 for answer in answers)
    client.update_backend_config(name, {"max_batch_size": 2})
    assert {answer.split()[2] for answer in serve.get([handle.remote("n") for _ in range(20)])} <= {"1", "2"}
    client.update_backend_config(name, {"target_latency_ms": None, "batch_wait_timeout": 60})
    assert serve.get([handle.remote("n"), handle.remote("n")]) == ["n of 2", "n of 2"]


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "soon", []])
def test_bad_target_latencies(standing, client, value):
    """A target that is no time above 0 is refused, in the config class and in an update (BC1)."""
    with pytest.raises(ValueError, match="target_latency_ms"):
        serve.BackendConfig(target_latency_ms=value)
    name = standing(Picky)
    with pytest.raises(ValueError, match="target_latency_ms"):
        client.update_backend_config(name, {"target_latency_ms": value})
    assert client.get_backend_config(name).target_latency_ms is None


def test_target_and_wait_exclude_each_other(served, client, name):
    """Two rules for one wait are refused, at create and at update, and nothing has changed (BC1)."""
    both = {"max_batch_size": 4, "batch_wait_timeout": 1, "target_latency_ms": 50}
    with pytest.raises(ValueError, match=r"batch_wait_timeout.*target_latency_ms"):
        client.create_backend(name, Picky, config=both)
    served(Picky, config={"max_batch_size": 4, "batch_wait_timeout": 1})
    with pytest.raises(ValueError, match=r"batch_wait_timeout.*target_latency_ms"):
        client.update_backend_config(name, {"target_latency_ms": 50})
    assert client.get_backend_config(name).target_latency_ms is None
    client.update_backend_config(name, {"target_latency_ms": 50, "batch_wait_timeout": 0})
