"""Batches, deadlines and streams, as users and HTTP clients see them."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.responses import StreamingResponse

import pointsman as serve
from pointsman.context import call_scope
from pointsman.exceptions import DeadlineExceededError
from tests.conftest import wait_until

# --- batches ----------------------------------------------------------------------------------------------------


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
def test_bad_target_latencies(served, client, name, value):
    """A target that is no time above 0 is refused, in the config class and in an update (BC1)."""
    with pytest.raises(ValueError, match="target_latency_ms"):
        serve.BackendConfig(target_latency_ms=value)
    served(Picky)
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


# --- deadlines --------------------------------------------------------------------------------------------------

BEGINS_S = 2.0
"""A deadline that user code begins before, on a busy machine too, and does not keep."""


class Sleeps:
    """Sleeps for a minute, and tells how that ended."""

    def __init__(self):
        self.begun = 0
        self.ends = []

    async def __call__(self, request):
        self.begun += 1
        try:
            await asyncio.sleep(60)
        except BaseException as error:
            self.ends.append(type(error).__name__)
            raise

    async def counts(self, request):
        return self.begun, self.ends


def test_an_endpoint_has_its_own_deadline(client, http, name):
    """``request_timeout_s`` of an endpoint counts over HTTP and through handles, in place of the instance's (HE2)."""
    client.create_backend(name, Sleeps)
    client.create_endpoint(name, backend=name, route=f"/{name}", request_timeout_s=BEGINS_S)
    answer = http.get(f"/{name}")
    assert (answer.status_code, answer.json()["reason"]) == (504, "deadline")
    with pytest.raises(DeadlineExceededError, match="while it ran"):
        client.get_handle(name).remote().result()
    wait_until(
        lambda: client.get_handle(name).options(method_name="counts").remote().result()[1] == ["CancelledError"] * 2
    )
    client.delete_endpoint(name)
    client.delete_backend(name)


def test_deploy_sets_the_deadline_and_keeps_it(client, http, name):
    """``deploy`` gives an endpoint its deadline; a later one without a word on it leaves it as it is (HE2)."""
    client.deploy(name, Sleeps, route=f"/{name}", request_timeout_s=BEGINS_S)
    assert http.get(f"/{name}").status_code == 504
    client.deploy(name, Sleeps)
    assert http.get(f"/{name}").status_code == 504
    client.delete_endpoint(name)
    client.delete_backend(name, force=True)


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (math.nan, ValueError), ("5", TypeError)]
)
def test_bad_deadlines(served, client, name, value, error):
    """What is no number of seconds above 0 is refused, wherever a deadline can be given (HE2, HA2)."""
    served(Sleeps)
    with pytest.raises(error, match="request_timeout_s"):
        client.create_endpoint(f"{name}-other", backend=name, request_timeout_s=value)
    with pytest.raises(error, match="request_timeout_s"):
        client.deploy(f"{name}-other", Sleeps, request_timeout_s=value)
    with pytest.raises(error, match="timeout_s"):
        client.get_handle(name).options(timeout_s=value)
    assert f"{name}-other" not in client.list_endpoints()


def test_the_deadline_of_a_handle(client, name):
    """``options(timeout_s=...)`` wins over the endpoint's deadline, is inherited, and None takes it back (HA2)."""
    client.create_backend(name, Sleeps)
    client.create_endpoint(name, backend=name, request_timeout_s=300)
    short = client.get_handle(name).options(timeout_s=0.2)
    with pytest.raises(DeadlineExceededError):
        short.options(http_method="POST").remote().result()
    patient = short.options(timeout_s=None).remote()
    with pytest.raises(TimeoutError, match="the call goes on"):
        patient.result(0.5)
    assert patient.cancel()
    client.delete_endpoint(name)
    client.delete_backend(name)


def test_clients_may_be_in_more_of_a_hurry(served, http):
    """``X-Serve-Timeout-S`` makes a request's deadline shorter (HE2)."""
    answer = http.get(served(Sleeps), headers={"x-serve-timeout-s": str(BEGINS_S)})
    assert (answer.status_code, answer.json()["reason"]) == (504, "deadline")


def test_clients_may_not_be_in_less(client, http, name):
    """``X-Serve-Timeout-S`` never makes it longer than the operator has set it (HE2)."""
    client.create_backend(name, Sleeps)
    client.create_endpoint(name, backend=name, route=f"/{name}", request_timeout_s=BEGINS_S)
    assert http.get(f"/{name}", headers={"x-serve-timeout-s": "100000"}).status_code == 504
    client.delete_endpoint(name)
    client.delete_backend(name)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon", "", "1,2"])
def test_deadlines_that_make_no_sense(served, client, http, name, value):
    """A header that is no number above 0 is a 400 with an error id, and no code has run (HE1, HE2)."""
    route = served(Sleeps)
    answer = http.get(route, headers={"x-serve-timeout-s": value, "x-request-id": "hurry-1"})
    assert (answer.status_code, answer.json()["reason"]) == (400, "rejected")
    assert answer.json()["error_id"] == "hurry-1"
    assert client.get_handle(name).options(method_name="counts").remote().result() == (0, [])


class OneAtATime:
    """Holds its first call until told, and counts."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.ran = []

    def __call__(self, request):
        self.ran.append(request.query_params["n"])
        (self.folder / "begun").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.005)
        return self.ran


@pytest.mark.parametrize("limit", [1, 100], ids=["in the router", "in the replica"])
def test_expired_work_is_never_started(served, client, http, tmp_path, limit):
    """Requests whose deadline passes while they wait are answered so and never run (HE2, F4)."""
    route = served(OneAtATime, str(tmp_path), config={"max_concurrent_queries": limit})
    first = []
    thread = threading.Thread(target=lambda: first.append(http.get(route, params={"n": "first"}).json()))
    thread.start()
    wait_until((tmp_path / "begun").exists)
    for number in range(3):
        late = http.post(route, params={"n": f"late{number}"}, headers={"x-serve-timeout-s": "0.1"})
        assert late.status_code in (503, 504)
        assert late.json()["reason"] == "deadline"
    (tmp_path / "go").touch()
    thread.join()
    assert first == [["first"]]
    assert http.get(route, params={"n": "last"}).json() == ["first", "last"]


class Outer:
    """Calls another endpoint, and keeps how that ended."""

    def __init__(self, handle):
        self.handle = handle
        self.ends = []

    def __call__(self, request):
        try:
            return self.handle.remote(request.query_params.get("n")).result()
        except Exception as error:
            self.ends.append(type(error).__name__)
            raise

    def after_the_deadline(self, request):
        time.sleep(float(request.query_params["sleep"]))
        return self(request)

    def ends_so_far(self, request):
        return self.ends


class OuterAsync:
    """The same with an async handle, in a batch: its members are not cancelled with their callers."""

    def __init__(self, handle):
        self.handle = handle
        self.ends = []

    @serve.accept_batch
    async def __call__(self, requests):
        try:
            return [await (await self.handle.remote()) for _ in requests]
        except Exception as error:
            self.ends.append(type(error).__name__)
            raise

    async def ends_so_far(self, requests):
        return [self.ends] * len(requests)


@pytest.fixture
def composed(client, name):
    """Serves ``outer``, which calls ``inner``; returns the outer route and handles to both."""

    def serve_both(outer, inner):
        client.create_backend(f"{name}-in", inner)
        client.create_endpoint(f"{name}-in", backend=f"{name}-in")
        handle = client.get_handle(f"{name}-in", sync=outer is not OuterAsync)
        client.create_backend(name, outer, handle, config={"http_methods": ["after_the_deadline"]})
        client.create_endpoint(name, backend=name, route=f"/{name}", methods=["GET", "POST"])
        return f"/{name}", client.get_handle(name), client.get_handle(f"{name}-in")

    yield serve_both
    for label in (name, f"{name}-in"):
        client.delete_endpoint(label)
        client.delete_backend(label, force=True)


@pytest.mark.parametrize("outer", [Outer, OuterAsync], ids=["def", "async"])
def test_a_deadline_travels_to_inner_calls(composed, http, outer):
    """The time that a caller has is all that the backends behind the first one have, too (HE2, CO7)."""
    route, handle, inner = composed(outer, Sleeps)
    assert http.get(route, headers={"x-serve-timeout-s": str(BEGINS_S)}).status_code in (500, 504)
    # The default would be 300 s, so an end within the time of wait_until is the outer call's deadline.
    ends = handle.options(method_name="ends_so_far")
    wait_until(lambda: ends.remote().result() == ["DeadlineExceededError"], what="the inner call ended")
    wait_until(lambda: inner.options(method_name="counts").remote().result() == (1, ["CancelledError"]))


def test_a_deadline_that_passed_in_an_inner_call_is_a_deadline(composed, http):
    """Whether the clock of the outer call or that of the inner one is a hair faster, the client gets a 504 (HE2)."""
    route, _, _ = composed(Outer, Sleeps)
    answers = [http.get(route, headers={"x-serve-timeout-s": str(BEGINS_S)}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [504] * 3


def test_calls_made_after_the_deadline_are_never_started(composed, http):
    """A backend that overruns its own deadline and then calls another one does not make that one work (HE2, F4)."""
    route, handle, inner = composed(Outer, Counts)
    headers = {"x-serve-call-method": "after_the_deadline", "x-serve-timeout-s": str(BEGINS_S)}
    for count in range(1, 3):
        assert http.get(route, params={"sleep": str(BEGINS_S + 0.2)}, headers=headers).status_code == 504
        ends = handle.options(method_name="ends_so_far").remote().result()  # waits behind the other, which still runs
        assert ends == ["DeadlineExceededError"] * count
    assert inner.options(method_name="ran_so_far").remote().result() == 0


class Counts:
    def __init__(self):
        self.ran = 0

    def __call__(self, request):
        self.ran += 1
        return self.ran

    def ran_so_far(self, request):
        return self.ran


def seen_id(request):
    """The request id under which this call runs; users see it in logs and answers."""
    return call_scope.get().request_id


@pytest.mark.parametrize("outer", [Outer, OuterAsync], ids=["def", "async"])
def test_a_request_id_travels_to_inner_calls(composed, http, outer):
    """One id names a request in every backend that works for it (CO7)."""
    route, _, _ = composed(outer, seen_id)
    for number in range(3):
        assert http.get(route, headers={"x-request-id": f"trace-{number}"}).text == f"trace-{number}"


# --- streams ----------------------------------------------------------------------------------------------------


class Streams:
    """Streams numbers, and tells what it made and whether it was closed."""

    def __init__(self):
        self.made = 0
        self.closed = 0

    def __call__(self, request):
        try:
            for number in range(request.body()):
                self.made += 1
                yield number
        finally:
            self.closed += 1

    async def later(self, request):
        try:
            for number in range(await request.body()):
                self.made += 1
                yield number
        finally:
            self.closed += 1

    def plain(self, request):
        return "no stream"

    def breaks(self, request):
        yield 0
        raise LookupError("in the middle")

    async def state(self, request):
        return self.made, self.closed


@pytest.mark.parametrize("method", [None, "later"], ids=["def", "async"])
def test_for_chunk_in_a_call(served, client, name, method):
    """``for chunk in handle.options(stream=True).remote()`` gives the values themselves, in order (RP5)."""
    served(Streams)
    handle = client.get_handle(name).options(stream=True, method_name=method)
    assert list(handle.remote(100)) == list(range(100))
    assert list(handle.remote(0)) == []
    future = handle.remote(3)
    assert next(iter(future.result())) == 0


def test_async_for_chunk_in_a_call(served, client, name):
    """An async handle's call can be iterated at once, or awaited first (RP5, HA1)."""
    served(Streams)

    async def use():
        handle = client.get_handle(name, sync=False).options(stream=True)
        at_once = [chunk async for chunk in handle.remote(50)]
        future = await handle.remote(50)
        awaited_once = [chunk async for chunk in future]
        awaited_twice = [chunk async for chunk in await (await handle.remote(50))]
        side_by_side = await asyncio.gather(*[collect(handle.remote(n)) for n in range(5)])
        return at_once, awaited_once, awaited_twice, side_by_side

    async def collect(stream):
        return [chunk async for chunk in stream]

    expected = list(range(50))
    assert asyncio.run(use()) == (expected, expected, expected, [list(range(n)) for n in range(5)])


def test_an_answer_that_is_no_stream(served, client, name):
    """Iterating a call that gave a plain value is a TypeError that says what came (RP5)."""
    served(Streams)
    handle = client.get_handle(name).options(stream=True, method_name="plain")
    with pytest.raises(TypeError, match="str"):
        list(handle.remote())
    assert handle.remote().result() == "no stream"

    async def use(handle):
        return [chunk async for chunk in handle.remote()]

    asynchronous = client.get_handle(name, sync=False).options(method_name="plain")
    with pytest.raises(TypeError, match="str"):
        asyncio.run(use(asynchronous.options(stream=True)))
    with pytest.raises(TypeError, match=r"options\(stream=True\)"):
        asyncio.run(use(asynchronous))


@pytest.mark.parametrize("method", [None, "later"], ids=["def", "async"])
def test_who_leaves_a_stream_early_closes_it(served, client, name, method):
    """A loop that breaks off ends the generator in the replica, ``finally`` included (RP4, F26)."""
    served(Streams)
    handle = client.get_handle(name)
    for chunk in handle.options(stream=True, method_name=method).remote(10**9):
        if chunk == 20:
            break
    state = handle.options(method_name="state")
    wait_until(lambda: state.remote().result()[1] == 1, what="the generator is closed")
    assert state.remote().result()[0] < 1000, "it ran ahead of its reader"


def test_who_leaves_an_async_loop_early_closes_it(served, client, name):
    """The same for ``async for`` (RP4, F26)."""
    served(Streams)

    async def use():
        handle = client.get_handle(name, sync=False).options(stream=True, method_name="later")
        async for chunk in handle.remote(10**9):
            if chunk == 20:
                return

    asyncio.run(use())
    state = client.get_handle(name).options(method_name="state")
    wait_until(lambda: state.remote().result()[1] == 1, what="the generator is closed")


def test_a_stream_may_outlast_the_deadline(client, http, name):
    """The deadline is one to the first byte: a stream that has begun goes on (HE2)."""

    class Drips:
        async def __call__(self, request):
            for number in range(5):
                yield f"{number} "
                await asyncio.sleep(BEGINS_S / 4)

    client.create_backend(name, Drips)
    client.create_endpoint(name, backend=name, route=f"/{name}", request_timeout_s=BEGINS_S)
    assert http.get(f"/{name}").text == "0 1 2 3 4 "
    assert "".join(client.get_handle(name).options(stream=True).remote()) == "0 1 2 3 4 "
    client.delete_endpoint(name)
    client.delete_backend(name)


def test_a_stream_that_breaks_raises_where_it_broke(served, client, name):
    """The user's exception comes after the values that came before it (RP5, HA4)."""
    served(Streams)
    seen = []

    def iterate():
        for chunk in client.get_handle(name).options(stream=True, method_name="breaks").remote():
            seen.append(chunk)

    with pytest.raises(LookupError, match="in the middle"):
        iterate()
    assert seen == [0]


def events(request):
    return StreamingResponse((f"data: {n}\n\n" for n in range(3)), media_type="text/event-stream")


def test_server_sent_events(served, http):
    """``text/event-stream`` goes through as it is, event by event (RP2, RP4)."""
    with http.stream("GET", served(events)) as answer:
        assert answer.headers["content-type"].partition(";")[0] == "text/event-stream"
        assert "content-length" not in answer.headers
        assert "".join(answer.iter_text()) == "data: 0\n\ndata: 1\n\ndata: 2\n\n"


@pytest.mark.parametrize("fails", [True, False], ids=["breaks", "ends"])
def test_the_last_chunk_says_that_all_is_there(served, client, fails):
    """A stream that fails in the middle is cut without HTTP's last chunk, and only then (HE3)."""

    def stream(request):
        yield "some"
        if fails:
            raise RuntimeError("broke")

    route = served(stream)
    address = urlsplit(client.http_address)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(f"GET {route} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = b""
        while more := connection.recv(65536):
            answer += more
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"transfer-encoding: chunked" in head.lower()
    assert body == (b"4\r\nsome\r\n" if fails else b"4\r\nsome\r\n0\r\n\r\n")
