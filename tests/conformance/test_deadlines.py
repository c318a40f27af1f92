"""Deadlines and request ids, as users and HTTP clients see them."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from pathlib import Path

import pytest

import pointsman as serve
from pointsman.context import call_scope
from pointsman.exceptions import DeadlineExceededError
from tests.conftest import UNWATCHED, wait_until

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


@pytest.fixture
def sleeps(client, standing, name):
    """Gives an endpoint of this name a backend that sleeps, which all of these tests share."""

    def serve_it(**endpoint):
        client.create_endpoint(name, backend=standing(Sleeps), route=f"/{name}", methods=["GET", "POST"], **endpoint)
        return f"/{name}"

    yield serve_it
    client.delete_endpoint(name)


def test_an_endpoint_has_its_own_deadline(sleeps, client, http, name):
    """``request_timeout_s`` of an endpoint counts over HTTP and through handles, in place of the instance's (HE2)."""
    route = sleeps(request_timeout_s=BEGINS_S)
    counts = client.get_handle(name).options(method_name="counts").remote
    begun, ends = counts().result()
    answer = http.get(route)
    assert (answer.status_code, answer.json()["reason"]) == (504, "deadline")
    with pytest.raises(DeadlineExceededError, match="while it ran"):
        client.get_handle(name).remote().result()
    wait_until(lambda: counts().result() == (begun + 2, [*ends, "CancelledError", "CancelledError"]))


def test_deploy_sets_the_deadline_and_keeps_it(client, http, name):
    """``deploy`` gives an endpoint its deadline; a later one without a word on it leaves it as it is (HE2)."""
    client.deploy(name, Sleeps, route=f"/{name}", request_timeout_s=BEGINS_S, config=UNWATCHED)
    assert http.get(f"/{name}").status_code == 504
    client.deploy(name, Sleeps)
    assert http.get(f"/{name}").status_code == 504
    client.delete_endpoint(name)
    client.delete_backend(name, force=True)


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-1, ValueError), (math.nan, ValueError), ("5", TypeError)]
)
def test_bad_deadlines(shared, standing, client, name, value, error):
    """What is no number of seconds above 0 is refused, wherever a deadline can be given (HE2, HA2)."""
    shared(Sleeps)
    with pytest.raises(error, match="request_timeout_s"):
        client.create_endpoint(f"{name}-other", backend=standing(Sleeps), request_timeout_s=value)
    with pytest.raises(error, match="request_timeout_s"):
        client.deploy(f"{name}-other", Sleeps, request_timeout_s=value)
    with pytest.raises(error, match="timeout_s"):
        client.get_handle(name).options(timeout_s=value)
    assert f"{name}-other" not in client.list_endpoints()


def test_the_deadline_of_a_handle(sleeps, client, name):
    """``options(timeout_s=...)`` wins over the endpoint's deadline, is inherited, and None takes it back (HA2)."""
    sleeps(request_timeout_s=300)
    short = client.get_handle(name).options(timeout_s=0.2)
    with pytest.raises(DeadlineExceededError):
        short.options(http_method="POST").remote().result()
    patient = short.options(timeout_s=None).remote()
    with pytest.raises(TimeoutError, match="the call goes on"):
        patient.result(0.5)
    assert patient.cancel()


def test_clients_may_be_in_more_of_a_hurry(sleeps, http):
    """``X-Serve-Timeout-S`` makes a request's deadline shorter (HE2)."""
    answer = http.get(sleeps(), headers={"x-serve-timeout-s": str(BEGINS_S)})
    assert (answer.status_code, answer.json()["reason"]) == (504, "deadline")


def test_clients_may_not_be_in_less(sleeps, http):
    """``X-Serve-Timeout-S`` never makes it longer than the operator has set it (HE2)."""
    assert http.get(sleeps(request_timeout_s=BEGINS_S), headers={"x-serve-timeout-s": "100000"}).status_code == 504


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon", "", "1,2"])
def test_deadlines_that_make_no_sense(shared, client, http, name, value):
    """A header that is no number above 0 is a 400 with an error id, and no code has run (HE1, HE2)."""
    route, counts = shared(Sleeps), client.get_handle(name).options(method_name="counts").remote
    begun, _ = counts().result()
    answer = http.get(route, headers={"x-serve-timeout-s": value, "x-request-id": "hurry-1"})
    assert (answer.status_code, answer.json()["reason"]) == (400, "rejected")
    assert answer.json()["error_id"] == "hurry-1"
    assert counts().result()[0] == begun


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
