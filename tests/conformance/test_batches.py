"""Batches: what user code gets together, and what it may answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pointsman as serve
from tests.conftest import wait_until
from tests.metrics import scrape


def test_batches(served, client, name):
    """What waits is taken together, and every caller gets its own answer (BA1, BA3, BA8, BA9)."""
    served(Batches, config={"max_batch_size": 5, "batch_wait_timeout": 60})
    handle = client.get_handle(name)
    answers = serve.get([handle.remote(n) for n in range(20)])
    assert answers == [{"n": number, "size": 5} for number in range(20)]
    client.update_backend_config(name, {"max_batch_size": 1})
    assert {a["size"] for a in serve.get([handle.remote(n) for n in range(5)])} == {1}


class Batches:
    @serve.accept_batch
    def __call__(self, requests):
        return [{"n": request.body(), "size": len(requests)} for request in requests]


@pytest.mark.parametrize(
    ("result", "text"),
    [(5, "iterable"), ({}, "iterable"), ("ab", "iterable"), ([1, 2, 3], "doesn't preserve batch size.*1.*3")],
)
@pytest.mark.same_on_ray
def test_bad_batch_results(served, client, name, result, text):
    """A batch result of the wrong kind or length is an error that says so (BA4)."""

    class Fixed:
        def __init__(self, value):
            self.value = value

        @serve.accept_batch
        def __call__(self, requests):
            return self.value

    served(Fixed, result)
    with pytest.raises(Exception, match=text):
        client.get_handle(name).remote().result()


def as_list(values):
    return list(values)


def as_tuple(values):
    return tuple(values)


def as_generator(values):
    yield from values


def as_array(values):
    return np.array(values, dtype=np.float32)


async def as_async_list(values):
    return list(values)


async def as_async_generator(values):
    for value in values:
        yield value


@pytest.mark.parametrize("give", [as_list, as_tuple, as_generator, as_array, as_async_list, as_async_generator])
@pytest.mark.same_on_ray
def test_what_a_batch_may_be(served, client, name, give):
    """Answers come as a list, a tuple, an array or from a generator, which is a list of answers and no stream
    (BA3, BA4, RP6)."""

    @serve.accept_batch
    def batching(requests):
        return give([request.body() + 0.5 for request in requests])

    @serve.accept_batch
    async def async_batching(requests):
        return await give([await request.body() + 0.5 for request in requests])

    @serve.accept_batch
    async def yields(requests):
        async for value in give([await request.body() + 0.5 for request in requests]):
            yield value

    code = yields if give is as_async_generator else async_batching if give is as_async_list else batching
    served(code, config={"max_batch_size": 4, "batch_wait_timeout": 10})
    handle = client.get_handle(name)
    answers = serve.get([handle.remote(number) for number in range(4)])
    assert answers == [0.5, 1.5, 2.5, 3.5]
    assert {type(answer) for answer in answers} == {np.float32 if give is as_array else float}


def test_async_batches(served, client, name, tmp_path):
    """Async batching code collects while a batch runs (BA10, BA14)."""

    class Collects:
        def __init__(self, gate):
            self.gate = Path(gate)

        @serve.accept_batch
        async def __call__(self, requests):
            import asyncio

            while not self.gate.exists():
                await asyncio.sleep(0.005)
            return [len(requests)] * len(requests)

    served(Collects, str(tmp_path / "gate"), config={"max_batch_size": 4})
    handle = client.get_handle(name)
    first = handle.remote()
    wait_until(lambda: scrape(client).sum("serve_replica_processing_queries", backend=name) == 1)
    rest = [handle.remote() for _ in range(8)]
    wait_until(lambda: scrape(client).sum("serve_replica_queued_queries", backend=name) == 8)
    (tmp_path / "gate").touch()
    assert serve.get([first, *rest]) == [1, *[4] * 8]
