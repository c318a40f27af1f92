"""Models made of models: backends that call others by handles."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

import pointsman as serve
from pointsman.exceptions import DeadlineExceededError, RemoteError, ServeException
from tests.conftest import WAIT_S, wait_until


@pytest.fixture
def serve_as(client):
    """Serves several backends, each behind an endpoint of its own name, and takes them down again."""
    names = []

    def serve_it(name, code, *init_args, config=None, route=None):
        client.create_backend(name, code, *init_args, config=config)
        client.create_endpoint(name, backend=name, route=route, methods=["GET", "POST"] if route else ["GET"])
        names.append(name)
        return client.get_handle(name)

    yield serve_it
    for name in reversed(names):
        client.delete_endpoint(name)
        client.delete_backend(name, force=True)


class Picky(Exception):
    def __init__(self, value):
        super().__init__(f"{value} is not to be had")
        self.value = value


class Locked(Exception):
    def __init__(self):
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class Inner:
    """What the outer backends call, and what does not need them."""

    def __init__(self):
        self.output = np.zeros(1_000_000)
        self.cancelled = []
        self.running = []

    async def __call__(self, request):
        body = await request.body()
        return body if isinstance(body, np.ndarray) else 2 * body

    async def describe(self, request):
        tone, path = request.headers.get("x-tone"), request.url.path
        return await request.body(), request.method, dict(request.query_params), tone, path

    async def wait(self, request):
        """Waits until it is cancelled."""
        name = await request.body()
        self.running.append(name)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise

    async def counts(self, request):
        """Which of the calls that wait have begun, and were cancelled, of those whose names begin so."""
        first = await request.body()
        return [sorted(n for n in names if n.startswith(first)) for names in (self.running, self.cancelled)]

    async def refuse(self, request):
        raise Picky(await request.body()) if await request.body() != "lock" else Locked()

    async def give_back(self, request):
        return await request.body(), request.query_params["key"], [await request.body()]

    async def ends(self, request):
        return (await request.body())[[0, -1]]

    async def fill(self, request):
        self.output[:] = await request.body()
        return self.output


class AsyncOuter:
    """Is given a handle as an argument, and makes an async one itself."""

    def __init__(self, handle):
        self.given = handle
        self.own = serve.connect().get_handle(handle._endpoint, sync=False)

    async def __call__(self, request):
        body = await request.body()
        return [await self.given.remote(body), await (await self.own.remote(body))]

    async def fan_out(self, request):
        wait = self.own.options(method_name="wait")
        futures = [await wait.remote(f"{await request.body()}{number}") for number in range(3)]
        return [await future for future in futures]

    async def pass_on(self, request):
        return await (await self.own.options(method_name="describe").remote(request))

    async def let_pass(self, request):
        return await self.given.options(method_name="refuse").remote(await request.body())

    async def nest(self):
        return await (await self.own.remote(self.own.remote(self.given.remote(1))))


class SyncOuter:
    """The same with sync handles and blocking code."""

    def __init__(self, handle):
        self.given = handle
        self.own = serve.connect().get_handle(handle._endpoint)
        self.overlap = self.most = 0

    def __call__(self, request):
        self.overlap += 1
        self.most = max(self.most, self.overlap)
        answer = [self.given.remote(request.body()).result(), self.own.remote(request.body()).result()]
        self.overlap -= 1
        return answer

    def fan_out(self, request):
        wait = self.own.options(method_name="wait")
        return serve.get([wait.remote(f"{request.body()}{number}") for number in range(3)])

    def pass_on(self, request):
        return self.own.options(method_name="describe").remote(request).result()

    def let_pass(self, request):
        return self.given.options(method_name="refuse").remote(request.body()).result()

    def most_at_once(self):
        return self.most


OUTERS = pytest.mark.parametrize("outer", [AsyncOuter, SyncOuter])
REPLICAS = 2
"""Of each outer backend."""


@pytest.fixture(scope="module")
def serve_standing(client):
    """Serves backends for all tests of the module, each behind an endpoint and a route of its own name."""
    names = []

    def serve_it(code, *init_args, **config):
        name = f"composed-{code.__name__}"
        client.create_backend(name, code, *init_args, config=config)
        client.create_endpoint(name, backend=name, route=f"/{name}", methods=["GET", "POST"])
        names.append(name)
        return client.get_handle(name)

    yield serve_it
    for name in reversed(names):
        client.delete_endpoint(name)
        client.delete_backend(name, force=True)


@pytest.fixture(scope="module")
def inner(serve_standing):
    """A handle of the inner backend."""
    return serve_standing(Inner, max_concurrent_queries=1000)


@pytest.fixture(scope="module")
def outers(serve_standing, inner):
    """Handles of the outer backends, by their code."""
    config = {"num_replicas": REPLICAS, "http_methods": ["pass_on"]}
    return {code: serve_standing(code, inner, **config) for code in (AsyncOuter, SyncOuter)}


@OUTERS
def test_a_backend_calls_another(outers, outer):
    """A backend has handles from its arguments or from ``connect()``, also with several replicas (CO1, CO5, IN9)."""
    handle = outers[outer]
    assert serve.get([handle.remote(n) for n in range(20)]) == [[2 * n, 2 * n] for n in range(20)]


@OUTERS
def test_arrays_pass_unchanged(outers, outer):
    """Arrays of any size, type and order arrive as they were sent, and may be written to (CO2)."""
    handle = outers[outer]
    whole = np.arange(600_000, dtype=np.float64).reshape(600, 1000)
    for array in (whole[:2, :3], whole, np.asfortranarray(whole), whole[::3, ::2], whole.astype(">i2"), whole[:0]):
        for answer in handle.remote(array).result():
            np.testing.assert_array_equal(answer, array)
            assert answer.dtype == array.dtype
            assert answer.flags.writeable
    frozen = whole.copy()
    frozen.flags.writeable = False
    assert not handle.remote(frozen).result()[0].flags.writeable


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 70_000, 3_000_000])
def test_bytes_pass_unchanged(inner, size):
    """``bytes`` and ``bytearray`` arrive as what they were, as body, keyword and answer, and inside others (RQ3)."""
    handle = inner.options(method_name="give_back")
    data = np.random.default_rng(size).bytes(size)
    for given in (data, bytearray(data)):
        got = handle.remote(given, key=given).result()
        assert got == (given, given, [given])
        assert {type(got[0]), type(got[1]), type(got[2][0])} == {type(given)}


def test_an_argument_may_be_changed_after_the_call(inner):
    """What was passed is what the array held at the time of the call, whatever is done to it then (CO2)."""
    handle = inner.options(method_name="ends")
    array = np.zeros(4_000_000)
    futures = []
    for number in range(5):
        array[:] = number
        futures.append(handle.remote(array))
    array[:] = -1
    assert [list(answer) for answer in serve.get(futures)] == [[n, n] for n in range(5)]


def test_an_answer_may_be_made_in_the_same_memory_each_time(inner):
    """A model that reuses its output array answers each call with what it held then (CO2)."""
    handle = inner.options(method_name="fill")
    answers = serve.get([handle.remote(n) for n in range(20)])
    assert [(answer[0], answer[-1]) for answer in answers] == [(n, n) for n in range(20)]


@OUTERS
def test_a_request_is_passed_on_as_it_is(outers, http, outer):
    """A request given to a handle reaches the next backend as a request: body, method, query, headers (RQ5)."""
    handle, route = outers[outer].options(method_name="pass_on"), f"/composed-{outer.__name__}"
    told = handle.options(http_method="PUT", http_headers={"X-Tone": "low"}).remote({"a": 1}, count=3).result()
    assert told == ({"a": 1}, "PUT", {"count": 3}, "low", route)
    headers = {"x-serve-call-method": "pass_on", "x-tone": "high"}
    answer = http.post(route, params={"count": "4"}, headers=headers, content=b"text").json()
    assert answer == ["text", "POST", {"count": "4"}, "high", route]


def test_requests_of_others_are_refused(inner):
    """A Starlette request that no backend was given cannot be passed on, and the error says what to do (RQ5)."""
    from starlette.requests import Request

    with pytest.raises(TypeError, match="pass its body"):
        inner.remote(Request({"type": "http", "headers": []}))


def test_futures_and_calls_as_arguments(outers):
    """A call may be given to another before it has an answer, also an async one before it was awaited (HA8)."""
    assert outers[AsyncOuter].options(method_name="nest").remote().result() == 8


def test_an_async_backend_serves_at_once(inner, outers, name):
    """While one request waits for an inner call, others are served, up to 100 in each replica (CO3)."""
    fan_out = outers[AsyncOuter].options(method_name="fan_out")
    futures = [fan_out.remote(f"{name}-{number}-") for number in range(REPLICAS * 100 + 10)]
    counts = inner.options(method_name="counts")
    wait_until(
        lambda: len(counts.remote(name).result()[0]) == REPLICAS * 300, what="three calls of each of 200 requests wait"
    )
    for future in futures:
        future.cancel()


def test_a_sync_backend_may_block(outers):
    """A sync backend waits for inner answers and serves one request at a time (CO8)."""
    handle = outers[SyncOuter]
    assert serve.get([handle.remote(n) for n in range(30)]) == [[2 * n, 2 * n] for n in range(30)]
    most = handle.options(method_name="most_at_once")
    assert max(serve.get([most.remote() for _ in range(10)])) == 1


@OUTERS
@pytest.mark.parametrize("how", ["cancel", "deadline"])
def test_inner_calls_end_with_the_outer_one(inner, outers, name, outer, how):
    """Cancelling a request, or its deadline, cancels all inner calls that are under way, awaited or not (CO7)."""
    handle = outers[outer].options(method_name="fan_out")
    counts = inner.options(method_name="counts")
    future = handle.options(timeout_s=3.0 if how == "deadline" else None, http_method="POST").remote(f"{name}x")
    started = [f"{name}x{number}" for number in range(3)]
    wait_until(lambda: counts.remote(name).result()[0] == started, what="the inner calls run")
    if how == "cancel":
        assert future.cancel()
    wait_until(lambda: counts.remote(name).result()[1] == started, what="the inner calls are cancelled")
    with pytest.raises(ServeException):
        future.result()
    # The threads of sync code are free again, of all replicas.
    again = [handle.remote(f"{name}y{number}") for number in range(REPLICAS)]
    wait_until(lambda: len(counts.remote(name).result()[0]) == 3 + 3 * REPLICAS, what="the next requests are served")
    for future in again:
        future.cancel()


class Cycle:
    """Calls itself through another backend, for ever."""

    def __init__(self, endpoint):
        self.other = serve.connect().get_handle(endpoint, missing_ok=True)

    def __call__(self, request):
        return self.other.remote(request.body()).result()


class AsyncCycle(Cycle):
    async def __call__(self, request):
        return await self.other.remote(await request.body())


@pytest.mark.parametrize("code", [Cycle, AsyncCycle])
def test_a_cycle_ends_at_the_deadline(serve_as, name, code):
    """Two backends that wait for each other end in a deadline error and serve on, instead of hanging (CO8, G9)."""
    there = serve_as(name, code, f"{name}-back", config={"max_concurrent_queries": 5})
    serve_as(f"{name}-back", code, name, config={"max_concurrent_queries": 5})
    for body in ("round", "again"):  # without its own deadline each would last for the instance's 300 s
        with pytest.raises(DeadlineExceededError):
            there.options(timeout_s=0.5).remote(body).result(WAIT_S)


@OUTERS
def test_exceptions_through_two_levels(outers, outer):
    """The class raised two backends away is caught here, with the tracebacks of both; a class that cannot travel comes
    as a RemoteError that still has its name, and every replica lives on (HA4)."""
    handle = outers[outer].options(method_name="let_pass")
    with pytest.raises(Picky) as caught:
        handle.remote(7).result()
    assert caught.value.value == 7
    told = str(caught.value.__cause__)
    assert "raise Picky" in told
    assert "self.given.options" in told
    with pytest.raises(RemoteError, match="holds a lock") as stand_in:
        handle.remote("lock").result()
    assert stand_in.value.class_name == "Locked"
    assert "in refuse" in stand_in.value.traceback
    with pytest.raises(Picky):
        handle.remote(8).result()


def double(request):
    return 2 * request.body()


class Manager:
    """Makes another backend when it is asked to."""

    def __call__(self, request):
        client = serve.connect()
        client.create_backend(request.body(), double)
        client.create_endpoint(request.body(), backend=request.body())
        return client.get_handle(request.body()).remote(4).result()


def test_a_backend_creates_another(serve_as, client, name):
    """A backend may create others, which other processes can call at once (CO6, HA3a)."""
    assert serve_as(name, Manager).remote(f"{name}-made").result() == 8
    assert client.get_handle(f"{name}-made").remote(5).result() == 10
    client.delete_endpoint(f"{name}-made")
    client.delete_backend(f"{name}-made")
