"""Handles: calls from Python, their options, futures and errors."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import pickle
import threading
import time
from pathlib import Path

import pytest

import pointsman as serve
from pointsman.exceptions import BackpressureError, RemoteError, ServeException, UserCodeError
from tests.conftest import WAIT_S, wait_until


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


@pytest.mark.same_on_ray
def test_options(shared, client, name):
    """Options make a new handle, are inherited, and can be unset (HA2)."""
    shared(echo)
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


@pytest.mark.same_on_ray
def test_exceptions_that_cannot_travel(served, client, name):
    """An exception that cannot be pickled arrives as a RemoteError with its name and traceback (HA4)."""
    served(raise_unpicklable)
    with pytest.raises(RemoteError, match="holds a lock") as caught:
        client.get_handle(name).remote().result()
    assert caught.value.class_name == "Unpicklable"
    assert "raise_unpicklable" in caught.value.traceback


def fail(request):
    raise ValueError("no")


@pytest.mark.same_on_ray
def test_failed_calls_are_freed_at_once(served, client, name):
    """Errors leave nothing for the garbage collector, so that a backend which fails all the time does not keep its
    callers' processes busy with it (HA3)."""
    served(fail)
    handle, later = client.get_handle(name), client.get_handle(name, sync=False)

    async def awaited():
        with contextlib.suppress(ValueError):
            await (await later.remote())

    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            with contextlib.suppress(ValueError):
                handle.remote().result()
            asyncio.run(awaited())
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert sum(isinstance(thing, ValueError) for thing in gc.garbage) < 10
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_pickled_handles(served, client, name):
    """A handle survives pickling with its options and carries no key (HA5)."""
    served(Held)
    handle = client.get_handle(name).options(method_name="counts")
    data = pickle.dumps(handle)
    assert client._credentials.key not in data
    assert pickle.loads(data).remote().result() == (0, 0)


@pytest.mark.same_on_ray
def test_timeout_leaves_the_call_running(served, client, name):
    """A result that is not there in time is a TimeoutError, and comes later (HA6)."""
    served(Held)
    handle = client.get_handle(name)
    future = handle.remote("late")
    with pytest.raises(TimeoutError):
        future.result(0.05)
    handle.options(method_name="let_go").remote().result()
    assert future.result(30) == "late"


@pytest.mark.same_on_ray
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


@pytest.mark.same_on_ray
def test_cancelled_while_queued_never_runs(served, client, name, tmp_path):
    """A call that was cancelled in the queue is never seen by user code (HA6)."""

    class Sequence:
        def __init__(self, gate):
            self.gate = Path(gate)
            self.seen = []

        def __call__(self, request):
            self.seen.append(request.body())
            while not self.gate.exists():
                time.sleep(0.005)
            return self.seen

    served(Sequence, str(tmp_path / "gate"), config={"max_concurrent_queries": 1})
    handle = client.get_handle(name)
    futures = [handle.remote(n) for n in range(4)]
    assert futures[2].cancel()
    (tmp_path / "gate").touch()
    assert futures[3].result() == [0, 1, 3]


@pytest.mark.same_on_ray
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


def test_futures_as_arguments(shared, client, name):
    """A future given to another call is resolved first (HA8)."""
    shared(echo)
    handle = client.get_handle(name)
    assert handle.remote(handle.remote(handle.remote("deep"))).result() == "deep"


def test_async_handle(shared, client, name):
    """An async handle is awaited in any event loop (HA1, HA13)."""
    shared(echo)

    async def use():
        handle = client.get_handle(name, sync=False)
        future = await handle.remote("a")
        with pytest.raises(RuntimeError, match="await"):
            (await handle.remote("b")).result()
        return await future, await asyncio.gather(*[await handle.remote(n) for n in range(50)])

    for _ in range(2):
        assert asyncio.run(use()) == ("a", list(range(50)))


def test_handles_from_many_threads(shared, client, name):
    """A sync handle may be used from any thread."""
    shared(echo)
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


@pytest.mark.same_on_ray
def test_handles_are_frozen(served, client, name):
    """A handle cannot be changed, not even through the dict that its headers were given in (HA2)."""
    served(lambda request: request.headers.get("x-tone"))
    headers = {"X-Tone": "low"}
    handle = client.get_handle(name).options(http_headers=headers)
    headers["X-Tone"] = "high"
    assert handle.remote().result() == "low"
    with pytest.raises(AttributeError, match="options"):
        handle._endpoint = "other"
    for wrong in ({"http_headers": ["x"]}, {"http_headers": {"x": 1}}, {"stream": 1}, {"idempotent": "yes"}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            handle.options(**wrong)


@pytest.mark.same_on_ray
def test_headers_of_a_call(served, client, name):
    """The request has the handle's headers, shard key and method (RQ4)."""

    class Reads:
        def headers(self, request):
            return dict(request.headers)

    served(Reads)
    handle = client.get_handle(name).options(method_name="headers", http_headers={"X-Tone": "low"}, shard_key="k")
    expected = {"x-tone": "low", "x-serve-shard-key": "k", "x-serve-call-method": "headers"}
    assert handle.remote().result() == expected


@pytest.mark.same_on_ray
def test_the_exception_without_raising_it(served, client, name):
    """``exception()`` gives what ``result()`` would raise, or None; both wait (HA4, HA6)."""
    served(lambda request: 1 / request.body())
    handle = client.get_handle(name)
    assert handle.remote(1).exception() is None
    assert isinstance(handle.remote(0).exception(timeout=30), ZeroDivisionError)


@pytest.mark.same_on_ray
def test_callbacks(served, client, name):
    """A callback is told once, of an answer, a failure or a cancellation, also when it comes too late (HA6)."""
    served(Held)
    handle = client.get_handle(name)
    futures = [handle.remote(n) for n in range(2)]
    told = []
    for future in futures:
        future.add_done_callback(told.append)
    futures[0].add_done_callback(lambda future: 1 / 0)  # is logged, and harms nobody
    futures[1].cancel()
    wait_until(lambda: told == [futures[1]])
    handle.options(method_name="let_go").remote().result()
    wait_until(lambda: told == [futures[1], futures[0]])
    futures[0].add_done_callback(told.append)
    assert told == [futures[1], futures[0], futures[0]]


@pytest.mark.same_on_ray
def test_callbacks_may_call_but_not_block(served, client, name):
    """In a callback a new call is fine, and waiting for one an error instead of a deadlock (HA13)."""
    served(Held, config={"max_queued_queries": 0, "max_concurrent_queries": 2})
    handle = client.get_handle(name)
    seen = []

    def call_again(future):
        second = handle.remote("second")  # no wait either, though the queue has no room
        try:
            second.result()
        except RuntimeError as error:
            seen.append(str(error))
        second.add_done_callback(lambda future: seen.append(future.result()))

    handle.remote("first").add_done_callback(call_again)
    handle.options(method_name="let_go").remote().result()
    wait_until(lambda: len(seen) == 2)
    assert "block" in seen[0]
    assert seen[1] == "second"


@pytest.mark.same_on_ray
def test_get_with_a_timeout(served, client, name):
    """The timeout of ``get`` is for the whole list; the calls go on (HA7)."""
    served(Held)
    handle = client.get_handle(name)
    futures = [handle.remote(n) for n in range(3)]
    with pytest.raises(TimeoutError):
        serve.get(futures, timeout=0.1)
    handle.options(method_name="let_go").remote().result()
    assert serve.get(futures, timeout=30) == [0, 1, 2]
    with pytest.raises(TypeError, match="int"):
        serve.get([1])


@pytest.mark.same_on_ray
def test_wait(served, client, name):
    """``wait`` parts the futures that are over from those that are not (HA7)."""
    served(Held)
    handle = client.get_handle(name)
    futures = [handle.remote(n) for n in range(4)]
    assert serve.wait(futures, timeout=0.05) == ([], futures)
    futures[2].cancel()
    assert serve.wait(futures) == ([futures[2]], [futures[0], futures[1], futures[3]])
    handle.options(method_name="let_go").remote().result()
    assert serve.wait(futures, num_returns=4) == (futures, [])
    assert serve.wait(futures, num_returns=2) == (futures[:2], futures[2:])
    for wrong in ({"num_returns": 0}, {"num_returns": 5}):
        with pytest.raises(ValueError, match="between 1 and 4"):
            serve.wait(futures, **wrong)
    with pytest.raises(ValueError, match="twice"):
        serve.wait([futures[0], futures[0]])


@pytest.mark.same_on_ray
def test_payloads_that_are_too_large(served, client, name):
    """Over 2 GiB less 16 MiB a call is refused with both numbers before anything is sent or copied, and so is an
    answer, whose caller alone is told; the replica serves on (HA4, G12)."""

    def answer(request):
        return bytes(2**31) if request.body() == "more" else request.body()

    served(answer)
    handle = client.get_handle(name)
    with pytest.raises(ValueError, match=r"^2147\d+ bytes .* the call's arguments: the limit is 2130706431"):
        handle.remote(bytes(2**31))  # the system makes no memory of zeros that nobody reads
    with pytest.raises(TypeError, match="lock"):
        handle.remote(threading.Lock())
    with pytest.raises(UserCodeError, match=r"^2147\d+ bytes .* a value of type bytes: the limit is 2130706431"):
        handle.remote("more").result()
    assert handle.remote("well").result() == "well"


def test_a_short_timeout_after_a_long_rest(shared, client, name):
    """A deadline counts from the call, however long the loop has slept before."""
    shared(echo)
    handle = client.get_handle(name).options(timeout_s=3.0)
    assert handle.remote(1).result() == 1
    time.sleep(3.2)  # the rest itself is what is tested
    assert handle.remote(2).result() == 2


@pytest.mark.same_on_ray
def test_an_async_handle_waits_for_room(served, client, name):
    """With a full queue the first await lasts until there is room, or ends at the deadline (HA9)."""
    served(Held, config={"max_concurrent_queries": 2, "max_queued_queries": 1})

    async def use():
        handle = client.get_handle(name, sync=False)
        waiting = [await handle.remote(n) for n in range(3)]
        late = await handle.options(timeout_s=0.3).remote("late")
        with pytest.raises(BackpressureError):
            await late
        patient = asyncio.ensure_future(handle.remote("patient"))
        assert not (await asyncio.wait([patient], timeout=0.1))[0]
        impatient = asyncio.ensure_future(handle.remote("impatient"))
        await asyncio.sleep(0)
        impatient.cancel()
        waiting[0].cancel()
        future = await asyncio.wait_for(patient, 30)
        waiting[1].cancel()
        waiting[2].cancel()
        await (await handle.options(method_name="let_go").remote())
        return await future

    assert asyncio.run(use()) == "patient"


@pytest.mark.same_on_ray
def test_async_futures_from_elsewhere(served, client, name):
    """The future of an async handle may be waited for on another thread, or awaited on another loop (HA13)."""
    served(Held)

    async def use():
        handle = client.get_handle(name, sync=False)
        future = await handle.remote("far")
        elsewhere = asyncio.create_task(asyncio.to_thread(future.result, 30))

        async def awaited():
            return await future

        on_another_loop = asyncio.create_task(asyncio.to_thread(asyncio.run, awaited()))
        with pytest.raises(RuntimeError, match="await"):
            serve.wait([future])
        await (await handle.options(method_name="let_go").remote())
        return await asyncio.gather(elsewhere, on_another_loop, future, future)

    assert asyncio.run(use()) == ["far"] * 4


@pytest.mark.same_on_ray
def test_cancelling_the_task_cancels_the_call(served, client, name):
    """A task that is cancelled while it awaits a future gives the call up (HA6)."""
    served(Held)

    async def use():
        handle = client.get_handle(name, sync=False)
        counts = handle.options(method_name="counts")

        async def until(expected):
            while await (await counts.remote()) != expected:
                await asyncio.sleep(0.01)

        async def awaits():
            await (await handle.remote(1))

        task = asyncio.create_task(awaits())
        await asyncio.wait_for(until((1, 0)), WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(until((0, 1)), WAIT_S)

    asyncio.run(use())


@pytest.mark.same_on_ray
def test_async_calls_follow_every_change(client, name):
    """The next call of an async handle goes where the last change says, and one that waits for its endpoint is told of
    it (CL4, HA3b)."""
    for tag in ("a", "b"):
        client.create_backend(f"{name}-{tag}", lambda: serve.get_current_backend_tag()[-1])

    async def use():
        early = await client.get_handle(name, missing_ok=True, sync=False).remote()
        await asyncio.to_thread(client.create_endpoint, name, backend=f"{name}-a")
        assert await asyncio.wait_for(early, 30) == "a"
        handle = client.get_handle(name, sync=False)
        for tag in "baba":
            client.set_traffic(name, {f"{name}-{tag}": 1.0})  # blocks this loop, and that is no reason to miss it
            assert await (await handle.remote()) == tag

    asyncio.run(use())
    client.delete_endpoint(name)
    for tag in ("a", "b"):
        client.delete_backend(f"{name}-{tag}")


def test_a_call_cannot_be_awaited_twice(shared, client, name):
    """What ``remote()`` of an async handle gives is awaited once; the future that this gives as often as one likes."""
    shared(echo)

    async def use():
        sending = client.get_handle(name, sync=False).remote(1)
        future = await sending
        assert await future == await future == 1
        with pytest.raises(RuntimeError, match="already awaited"):
            await sending

    asyncio.run(use())


def test_clients_are_not_picklable(client):
    """A client cannot be pickled, and says what to do instead."""
    with pytest.raises(ServeException, match="connect"):
        pickle.dumps(client)
