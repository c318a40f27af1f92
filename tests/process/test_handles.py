"""Handles while replicas die, come and go; and what is left of them when they are dropped."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

import pointsman as serve
from pointsman.calling.dispatch import HandleCall
from pointsman.calling.future import ServeFuture
from pointsman.exceptions import ReplicaDiedError
from pointsman.handle import ServeHandle
from tests.conftest import UNWATCHED, WAIT_S, leaves_no_process, start_client, wait_until


@pytest.fixture(scope="module")
def client() -> Iterator[serve.Client]:
    with leaves_no_process():
        client = start_client(host=None)
        yield client
        client.shutdown()


class Model:
    """Answers with what it was given, and its version."""

    def __init__(self, version: int) -> None:
        self.version = version

    async def __call__(self, request: Any) -> tuple[Any, int]:
        await asyncio.sleep(0.002)
        return await request.body(), self.version


class Outer:
    def __init__(self, handle: Any) -> None:
        self.inner = handle

    async def __call__(self, request: Any) -> Any:
        return await (await self.inner.remote(await request.body()))


class Load:
    """Calls of one kind, one after the other on a thread, until the end of the block. Each must be answered."""

    def __init__(self, run: Callable[[Load], None]) -> None:
        self.count = 0
        self.stopping = False
        self.errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._main, args=(run,))

    def answered(self, answer: Any) -> None:
        assert answer[0] == self.count
        self.count += 1

    def _main(self, run: Callable[[Load], None]) -> None:
        try:
            run(self)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test is to show it
            self.errors.append(error)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping = True
        self._thread.join(WAIT_S)
        assert not self.errors, self.errors


def sync_load(handle: ServeHandle) -> Load:
    def run(load: Load) -> None:
        while not load.stopping:
            load.answered(handle.remote(load.count).result(WAIT_S))

    return Load(run)


def async_load(client: serve.Client, name: str) -> Load:
    async def main(load: Load) -> None:
        handle = client.get_handle(name, sync=False).options(idempotent=True)
        while not load.stopping:
            load.answered(await asyncio.wait_for(await handle.remote(load.count), WAIT_S))

    return Load(lambda load: asyncio.run(main(load)))


def test_no_idempotent_call_fails(client: serve.Client) -> None:
    """Sync, async and composed calls are all answered while replicas are killed, scaled away and replaced by new code
    (G1, G2, F1, F36, F37, HA11)."""
    client.deploy("model", Model, 0, config={"num_replicas": 2, **UNWATCHED})
    inner = client.get_handle("model", sync=False).options(idempotent=True)
    client.deploy("outer", Outer, inner)
    sync, outer = (client.get_handle(name).options(idempotent=True) for name in ("model", "outer"))
    with sync_load(sync) as one, async_load(client, "model") as two, sync_load(outer) as three:
        loads = (one, two, three)

        def go_on() -> None:
            counts = [load.count for load in loads]
            errors = lambda: any(load.errors for load in loads)  # noqa: E731
            wait_until(lambda: errors() or all(n.count > c + 20 for n, c in zip(loads, counts, strict=True)))

        go_on()
        os.kill(client.status()["backends"]["model"]["replicas"][0]["pid"], signal.SIGKILL)
        go_on()
        client.update_backend_config("model", {"num_replicas": 1})
        go_on()
        client.update_backend_config("model", {"num_replicas": 2})
        go_on()
        client.deploy("model", Model, 1)
        assert sync.remote("now").result() == ("now", 1)
        go_on()


class DiesOnce:
    """Takes its replica along at the first request, and answers the next."""

    def __init__(self, folder: str) -> None:
        self.mark = os.path.join(folder, serve.get_current_backend_tag())

    def __call__(self, request: Any) -> str:
        if os.path.exists(self.mark):
            return "answered"
        open(self.mark, "x").close()
        os.kill(os.getpid(), signal.SIGKILL)
        return "never"


def test_what_may_be_repeated(client: serve.Client, tmp_path: Path) -> None:
    """A call that had started when its replica died is repeated only when somebody has said that it may be; that GET is
    the default says nothing (HA11, FT12, G2)."""
    asked: dict[str, tuple[dict[str, Any], bool]] = {
        "default": ({}, False),
        "post": ({"http_method": "POST"}, False),
        "get": ({"http_method": "get"}, True),
        "key": ({"http_headers": {"Idempotency-Key": "1"}}, True),
        "promise": ({"http_method": "POST", "idempotent": True}, True),
    }
    for name in asked:
        client.deploy(name, DiesOnce, str(tmp_path))
    futures = {name: client.get_handle(name).options(**options).remote() for name, (options, _) in asked.items()}
    for name, (_, repeated) in asked.items():
        error = futures[name].exception(WAIT_S)
        assert isinstance(error, ReplicaDiedError) is not repeated, name
        assert repeated is (error is None and futures[name].result() == "answered"), name
    for name in asked:
        client.delete_endpoint(name)
        client.delete_backend(name)


class Census(NamedTuple):
    """Threads, descriptors, and objects of handle calls in this process, in which other tests have run before."""

    threads: int
    descriptors: int
    ours: int

    def is_within(self, before: Census) -> bool:
        """Nothing has come; what others have left behind may have ended meanwhile."""
        return all(now <= then for now, then in zip(self, before, strict=True))


def census() -> Census:
    gc.collect()
    ours = sum(isinstance(thing, (ServeHandle, ServeFuture, HandleCall)) for thing in gc.get_objects())
    process = psutil.Process()
    return Census(process.num_threads(), process.num_fds(), ours)


def test_dropped_handles_leave_nothing(client: serve.Client) -> None:
    """A thousand handles, made, used and dropped, leave neither threads nor sockets nor memory (G11)."""
    client.deploy("echo", lambda request: request.body())

    def one(number: int) -> None:
        handle = client.get_handle("echo").options(shard_key=str(number), http_headers={"n": str(number)})
        assert handle.remote(number).result() == number
        handle.remote(number)  # its future is dropped before it has an answer

    def make_and_drop(count: int) -> None:
        for number in range(count):
            one(number)
        wait_until(lambda: census().ours == 0, what="no object of a call is left")

    make_and_drop(100)
    before, memory = census(), psutil.Process().memory_info().rss
    make_and_drop(1000)
    wait_until(lambda: census().is_within(before), what="threads and descriptors are as many as before")
    assert psutil.Process().memory_info().rss - memory < 8e6


def test_loops_that_end_leave_nothing(client: serve.Client) -> None:
    """An event loop takes its connections along when it ends, time after time (HA13, G11)."""
    client.deploy("echo", lambda request: request.body())

    async def use() -> None:
        handle = client.get_handle("echo", sync=False)
        assert await (await handle.remote(1)) == 1
        await handle.remote(2)  # nobody waits for this one

    asyncio.run(use())
    before = census()
    for _ in range(20):
        asyncio.run(use())
    wait_until(lambda: census().is_within(before), what="threads and descriptors are as many as before")


IN_ANOTHER_PROCESS = """
import pickle, sys
handle = pickle.loads(bytes.fromhex(sys.argv[1]))
print(handle, handle.remote().result())
"""


def test_a_handle_goes_to_another_process(client: serve.Client) -> None:
    """A pickled handle works in a process that has nothing to do with this one, with its options (HA5)."""
    client.deploy("method", lambda request: request.method)
    handle = client.get_handle("method").options(http_method="PUT")
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, pickle.dumps(handle).hex()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * WAIT_S, check=False)
    assert done.stdout == f"{handle!r} PUT\n", done.stderr


def test_a_forked_child_may_use_a_handle(client: serve.Client) -> None:
    """A handle works in a process that was forked after its first use, and goes on working in the parent."""
    client.deploy("echo", lambda request: request.body())
    handle = client.get_handle("echo")
    assert handle.remote("parent").result() == "parent"

    def child() -> None:
        answered = handle.remote("child").result(WAIT_S) == "child"
        os._exit(0 if answered else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert handle.remote("parent").result() == "parent"
