"""User code in decorators, objects that are called, and batches without end, as their callers see them."""

from __future__ import annotations

from typing import Any

import pytest

from pointsman.model import Reason
from pointsman.testing import MemoryReplica, real_time
from pointsman.wire.frames import Kind
from pointsman.wire.messages import FailureHead, unpack
from tests.loop import wrapped_models
from tests.loop.test_runtime import Caller, with_replica
from tests.loop.wrapped_models import EndlessBatches, Wrapped


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("", "x"),
        ("passed_on", "x"),
        ("run", "x"),
        ("made_async", "starlette.requests"),
        ("given_bytes", "xmore"),
        ("without", "x"),
        ("logged", "logged x"),
        ("two", "two x"),
        ("made", "made x"),
        ("static", "x"),
        ("of_class", "Wrapped x"),
        ("greets", "greets x"),
        ("future", "x"),
        ("old_coroutine", "x"),
        ("batch", "1 x"),
        ("batches", "1 x"),
        ("static_batch", "1 x"),
    ],
)
def test_decorated_methods_do_what_they_say(method: str, answer: str) -> None:
    """Sync around async and the other way round, partials, static methods and objects that are called: the outermost
    one is called as what it is, what it gives to be awaited is awaited, and the batch marker is kept (RQ1, RQ6)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        with real_time():
            frame = await caller.answer(caller.call("x", method=method))
            if frame.kind == Kind.FAILURE:
                raise AssertionError(unpack(frame.head, FailureHead).traceback)
            assert frame.body.decode() == answer
            assert replica.runtime.load == 0

    with_replica(test, Wrapped, http_methods=(method,))


def test_what_fails_while_it_is_awaited_fails_its_caller() -> None:
    """An error in what a ``def`` gave to be awaited is one of its call."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        with real_time():
            failure = unpack((await caller.answer(caller.call(method="fails"))).head, FailureHead)
        assert (failure.reason, failure.error) == (Reason.USER_CODE, "LookupError")

    with_replica(test, Wrapped)


@pytest.mark.parametrize("method", ["repeats", "yields", "gives_async", "returns", "returns_async", "yields_async"])
def test_an_answer_without_end_is_an_error(method: str) -> None:
    """Of a batch's answer at most one item too many is taken, whatever kind of iterator it is; a generator is closed,
    and every member hears of it (BA4, BA16)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        with real_time():
            failure = unpack((await caller.answer(caller.call(method=method))).head, FailureHead)
            assert "doesn't preserve batch size: it got 1 requests and returned at least 2 answers" in failure.text
            taken = (await caller.answer(caller.call())).body
            assert taken == (b"[0,0]" if method == "repeats" else b"[2,1]")

    with_replica(test, EndlessBatches)


def test_an_answer_that_ends_too_soon_is_one_as_well() -> None:
    """An iterator that yields too little is told with both numbers (BA4)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        with real_time():
            failure = unpack((await caller.answer(caller.call(method="short"))).head, FailureHead)
            assert "it got 1 requests and returned 0 answers" in failure.text

    with_replica(test, EndlessBatches)


def open_to(*names: str) -> dict[str, Any]:
    return {"http_methods": names}


@pytest.mark.parametrize(("names", "refused"), [((), ["greets", "nope"]), (("greets",), ["run"]), (("*",), ["nope"])])
def test_http_clients_choose_what_is_named(names: tuple[str, ...], refused: list[str]) -> None:
    """Over HTTP only ``__call__`` and the methods that ``http_methods`` names can be chosen (RQ7, BC8)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        with real_time():
            for method in refused:
                failure = unpack((await caller.answer(caller.call("x", method=method))).head, FailureHead)
                assert failure.reason is Reason.REJECTED
                assert method in failure.text
            for method in ("", "__call__", *(["greets"] if names else [])):
                assert (await caller.answer(caller.call("x", method=method))).kind == Kind.REPLY

    with_replica(test, Wrapped, **open_to(*names))


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        (wrapped_models.function_passed_on, "x"),
        (wrapped_models.function_logged, "logged x"),
        (wrapped_models.function_cached, "x"),
        (wrapped_models.function_without, "x"),
    ],
    ids=["passed on", "logged", "cached", "without"],
)
def test_decorated_functions_are_backends(code: Any, answer: str) -> None:
    """A function in a decorator is a backend, also where the decorator has made an object of it (CB2)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        with real_time():
            for _ in range(2):
                assert (await caller.answer(caller.call("x"))).body.decode() == answer

    with_replica(test, code)
