"""replica.usercontext: what one call sets in its context no other one sees."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from pointsman.replica.health import Check
from pointsman.testing import MemoryReplica, real_time
from pointsman.wire.frames import Kind
from tests.loop import context_models
from tests.loop.context_models import SEEN, Remembers, RemembersLater
from tests.loop.test_runtime import Caller, with_replica


@pytest.mark.parametrize("method", ["", "later", "batch", "batch_later"])
def test_nothing_is_left_in_the_context(method: str) -> None:
    """A request sees what the constructor has set, and nothing of what requests before it have, decimal's precision
    included, be they sync or async, single or batches."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        with real_time():
            for each in ("", method, "later", "batch", method):
                assert (await caller.answer(caller.call(method=each))).body == b"constructor 5", each

    with_replica(test, Remembers)


@pytest.mark.parametrize(
    ("method", "seen"), [("stream", ["stream 5", "within"]), ("stream_later", ["stream 5", "within"])]
)
def test_a_stream_has_the_context_of_its_call(method: str, seen: list[str]) -> None:
    """A generator goes on where its call began, and leaves nothing behind."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        with real_time():
            for _ in range(2):
                call = caller.call(method=method)
                await caller.until(lambda call=call: any(f.kind == Kind.END for f in caller.of(call)))
                assert [f.body.decode() for f in caller.of(call) if f.kind == Kind.CHUNK] == seen
            assert (await caller.answer(caller.call())).body == b"constructor 5"

    with_replica(test, Remembers)


def test_what_is_awaited_for_a_def_has_the_context_of_its_call() -> None:
    """A coroutine that a ``def`` returns sees what that has set, and nobody else does."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        with real_time():
            for _ in range(2):
                assert (await caller.answer(caller.call(method="awaited"))).body == b"awaited 5"
            assert (await caller.answer(caller.call(method="later"))).body == b"constructor 5"

    with_replica(test, Remembers)


@pytest.mark.parametrize("code", [Remembers, RemembersLater])
def test_a_new_config_holds_in_the_context(code: Any) -> None:
    """``reconfigure`` sees what the constructor has set, and what it sets itself holds for later requests; ``close``
    sees both."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        SEEN.clear()
        with real_time():
            await replica.runtime.reconfigure(pickle.dumps("new"), timeout_s=20)
            for method in ("", "later"):
                assert (await caller.answer(caller.call(method=method))).body == b"new 5"
            await replica.runtime.close()
        assert SEEN == ["new"]

    with_replica(test, code)


def test_check_health_sees_what_the_constructor_has_set() -> None:
    """``check_health`` runs in the constructor's context, whatever requests have set meanwhile."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        with real_time():
            await caller.answer(caller.call())
            health_check = replica.runtime.health_check
            assert health_check is not None
            check = Check(health_check, asyncio.get_running_loop(), replica.runtime.context)
            for _ in range(2):
                check.poll(0.0, 0.0)
                while check._began is not None:
                    await asyncio.sleep(0.001)
            assert check.poll(0.0, 0.0).failure is None
            check.stop_checks()

    with_replica(test, Remembers)


def test_choosing_a_bucket_leaves_nothing_behind() -> None:
    """What ``bucket_by`` sets is seen by no batch."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        for _ in range(2):
            assert (await caller.answer(caller.call())).body == b"none"

    with_replica(test, context_models.by_bucket)
