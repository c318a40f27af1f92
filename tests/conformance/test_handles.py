"""Handles: calls from Python, their options, futures and errors."""

from __future__ import annotations

import asyncio
import pickle
import threading

import pytest

import pointsman as serve
from pointsman.exceptions import BackpressureError, RemoteError, ServeException
from tests.conftest import wait_until


def echo(request):
    return request.body()


class Unpicklable(Exception):
    def __init__(self, lock):
        super().__init__("holds a lock")
        self.lock = lock


def raise_unpicklable(request):
    raise Unpicklable(threading.Lock())


class Held:
    """Holds its calls until it is told to let go."""

    def __init__(self):
        self.go = asyncio.Event()
        self.running = 0
        self.cancelled = 0

    async def __call__(self, request):
        self.running += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        return await request.json()

    async def counts(self, request):
        return self.running, self.cancelled

    async def let_go(self, request):
        self.go.set()


def test_many_calls_at_once(served, client, name):
    """A thousand calls at once come back to their own futures (HA1, HA7)."""
    served(echo, config={"max_queued_queries": 5000})
    handle = client.get_handle(name)
    assert serve.get([handle.remote(n) for n in range(1000)]) == list(range(1000))


def test_options(served, client, name):
    """Options make a new handle, are inherited, and can be unset (HA2)."""
    served(echo)
    plain = client.get_handle(name)
    other = plain.options(http_method="POST").options(method_name="x")
    assert "POST" in repr(other)
    assert "'x'" in repr(other)
    assert "x'" not in repr(other.options(method_name=None))
    assert "POST" not in repr(plain)
    with pytest.raises(TypeError):
        plain.options("x")
    with pytest.raises(TypeError, match="5"):
        plain.options(method_name=5)
    with pytest.raises(ValueError, match="queue_full"):
        plain.options(queue_full="perhaps")


def test_missing_endpoints(client, name):
    """A handle of an unknown endpoint is a KeyError, or its call waits until the endpoint is there (HA3b)."""
    with pytest.raises(KeyError, match=name):
        client.get_handle(name)
    future = client.get_handle(name, missing_ok=True).remote("early")
    assert not future.done()
    client.create_backend(name, echo)
    client.create_endpoint(name, backend=name)
    assert future.result(30) == "early"
    client.delete_endpoint(name)
    client.delete_backend(name)


def test_exceptions_that_cannot_travel(served, client, name):
    """An exception that cannot be pickled arrives as a RemoteError with its name and traceback (HA4)."""
    served(raise_unpicklable)
    with pytest.raises(RemoteError, match="holds a lock") as caught:
        client.get_handle(name).remote().result()
    assert caught.value.class_name == "Unpicklable"
    assert "raise_unpicklable" in caught.value.traceback


def test_pickled_handles(served, client, name):
    """A handle survives pickling with its options and carries no key (HA5)."""
    served(Held)
    handle = client.get_handle(name).options(method_name="counts")
    data = pickle.dumps(handle)
    assert client._credentials.key not in data
    assert pickle.loads(data).remote().result() == (0, 0)


def test_timeout_leaves_the_call_running(served, client, name):
    """A result that is not there in time is a TimeoutError, and comes later (HA6)."""
    served(Held)
    handle = client.get_handle(name)
    future = handle.remote("late")
    with pytest.raises(TimeoutError):
        future.result(0.05)
    handle.options(method_name="let_go").remote().result()
    assert future.result(30) == "late"


def test_cancel(served, client, name):
    """Cancelling removes a queued call unseen and cancels a running async one (HA6)."""
    served(Held, config={"max_concurrent_queries": 2})
    handle = client.get_handle(name)
    counts = handle.options(method_name="counts")
    running = handle.remote(1)
    wait_until(lambda: counts.remote().result() == (1, 0))
    assert running.cancel()
    wait_until(lambda: counts.remote().result() == (0, 1))
    with pytest.raises(ServeException, match="cancelled"):
        running.result()
    assert not running.cancel()


def test_cancelled_while_queued_never_runs(served, client, name):
    """A call that was cancelled in the queue is never seen by user code (HA6)."""

    class Sequence:
        def __init__(self):
            self.seen = []

        def __call__(self, request):
            import time

            self.seen.append(request.body())
            time.sleep(0.2)
            return self.seen

    served(Sequence, config={"max_concurrent_queries": 1})
    handle = client.get_handle(name)
    futures = [handle.remote(n) for n in range(4)]
    futures[2].cancel()
    assert futures[3].result() == [0, 1, 3]


def test_queue_full(served, client, name):
    """With a full queue a call raises at once when asked to, and waits otherwise (HA9)."""
    served(Held, config={"max_concurrent_queries": 2, "max_queued_queries": 1})
    handle = client.get_handle(name)
    waiting = [handle.remote(n) for n in range(3)]
    eager = handle.options(queue_full="raise")
    wait_until(lambda: _raises(BackpressureError, eager), what="the queue is full")
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(handle.remote("patient").result()))
    thread.start()
    for future in waiting:
        future.cancel()
    handle.options(method_name="let_go").remote().result()
    thread.join(30)
    assert outcome == ["patient"]


def _raises(error, handle):
    future = handle.remote("x")
    try:
        future.result(0.05)
    except error:
        return True
    except TimeoutError:
        future.cancel()
    return False


def test_futures_as_arguments(served, client, name):
    """A future given to another call is resolved first (HA8)."""
    served(echo)
    handle = client.get_handle(name)
    assert handle.remote(handle.remote(handle.remote("deep"))).result() == "deep"


def test_async_handle(served, client, name):
    """An async handle is awaited in any event loop (HA1, HA13)."""
    served(echo)

    async def use():
        handle = client.get_handle(name, sync=False)
        future = await handle.remote("a")
        with pytest.raises(RuntimeError, match="await"):
            (await handle.remote("b")).result()
        return await future, await asyncio.gather(*[await handle.remote(n) for n in range(50)])

    for _ in range(2):
        assert asyncio.run(use()) == ("a", list(range(50)))


def test_handles_from_many_threads(served, client, name):
    """A sync handle may be used from any thread."""
    served(echo)
    handle = client.get_handle(name)
    results = {}

    def use(number):
        results[number] = [handle.remote((number, i)).result() for i in range(20)]

    threads = [threading.Thread(target=use, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {n: [(n, i) for i in range(20)] for n in range(8)}


class Composed:
    """Calls another endpoint from inside."""

    def __init__(self, handle):
        self.given = handle
        self.own = serve.connect().get_handle(handle._endpoint)

    def __call__(self, request):
        return [self.given.remote(request.body()).result(), self.own.remote("own").result()]


def test_composition(served, client, name):
    """A backend calls another by a handle that it was given, or gets itself (CO1, CO5, IN9)."""
    served(echo)
    client.create_backend(f"{name}-outer", Composed, client.get_handle(name), config={"num_replicas": 2})
    client.create_endpoint(f"{name}-outer", backend=f"{name}-outer")
    outer = client.get_handle(f"{name}-outer")
    assert serve.get([outer.remote(n) for n in range(10)]) == [[n, "own"] for n in range(10)]
    client.delete_endpoint(f"{name}-outer")
    client.delete_backend(f"{name}-outer")


def test_clients_are_not_picklable(client):
    """A client cannot be pickled, and says what to do instead."""
    with pytest.raises(ServeException, match="connect"):
        pickle.dumps(client)
