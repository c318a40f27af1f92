"""The whole way of a batched call, router to user code and back, under anything that callers, operators and user code
may do in any order: in virtual time."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pointsman.exceptions import DeadlineExceededError, RemoteError, UserCodeError
from pointsman.incoming import CODEC_HTTP, CODEC_OBJECT
from pointsman.model import ReplicaConfig
from pointsman.request import accept_batch
from pointsman.routing.call import Call
from pointsman.routing.router import Router
from pointsman.testing import INSTANCE, MemoryReplica, VirtualTimeLoop, new_call, settle, table_of
from tests.properties import examples

T = TypeVar("T")

LIMIT = 1000
"""Queries that the replica takes at a time: more than a run ever sends, so that what waits, waits in its batcher."""
EXITS: tuple[type[BaseException], ...] = (SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError)
OUTCOMES = ("answers", "raises", "exits", "short", "objects", "no list")


class Query(NamedTuple):
    number: int
    method: str
    bucket: str
    codec: int

    @property
    def key(self) -> tuple[str, str]:
        """Only queries of the same key may share a batch."""
        return self.method, self.bucket if self.method == "" else ""


class Batch(NamedTuple):
    queries: list[Query]
    outcome: asyncio.Future[str]


class World:
    """What user code and the test share: user code is loaded by reference."""

    def __init__(self) -> None:
        self.running: list[Batch] = []
        self.started: dict[int, Query] = {}
        self.problems: list[str] = []
        self.max_size = 1
        self.wait_s = 0.0
        self.fixed = True
        self.acted_at = 0.0
        """When a caller, an operator or user code last did something: a batch may start then, or when it is due."""
        self.submitted_at: dict[int, float] = {}

    async def run(self, method: str, requests: list[Any]) -> Any:
        queries = [_read(await request.body(), method) for request in requests]
        self._check(queries)
        batch = Batch(queries, asyncio.get_running_loop().create_future())
        self.running.append(batch)
        kind = await batch.outcome
        self.running.remove(batch)
        if kind == "raises":
            raise ValueError(f"failed with {queries[0].number}")
        if kind == "exits":
            raise EXITS[queries[0].number % len(EXITS)](f"failed with {queries[0].number}")
        if kind == "short":
            return [0] * (len(queries) + 1)
        if kind == "no list":
            return {query.number: "" for query in queries}
        return [
            KeyError(f"own {query.number}") if kind == "objects" and query.number % 2 else f"answer {query.number}"
            for query in queries
        ]

    def _check(self, queries: list[Query]) -> None:
        """User code must not raise by itself here, so what is wrong is written down."""
        now = asyncio.get_running_loop().time()
        numbers = [query.number for query in queries]
        if not 1 <= len(queries) <= self.max_size:
            self.problems.append(f"a batch of {len(queries)} at a maximum of {self.max_size}")
        if len({query.key for query in queries}) != 1:
            self.problems.append(f"one batch holds {queries}")
        if again := [number for number in numbers if number in self.started]:
            self.problems.append(f"{again} ran twice")
        if numbers != sorted(numbers):
            self.problems.append(f"out of order: {numbers}")
        due = self.submitted_at[numbers[0]] + self.wait_s
        if self.fixed and now != self.acted_at and abs(now - due) > 1e-6:
            self.problems.append(
                f"a batch whose first came at {due - self.wait_s} with wait {self.wait_s} ran at {now}"
            )
        self.started |= {query.number: query for query in queries}


WORLD = World()


def _read(body: Any, method: str) -> Query:
    codec = CODEC_HTTP if isinstance(body, bytes) else CODEC_OBJECT
    number, bucket = (body.decode() if isinstance(body, bytes) else body).split()
    return Query(int(number), method, bucket, codec)


class Model:
    @accept_batch(bucket_by=lambda request: _read(request.body(), "").bucket)
    async def __call__(self, requests: list[Any]) -> Any:
        return await WORLD.run("", requests)

    @accept_batch
    async def other(self, requests: list[Any]) -> Any:
        return await WORLD.run("other", requests)


class Batching(RuleBasedStateMachine):
    """Callers, an operator, user code, and time."""

    @initialize(max_size=st.integers(1, 4), wait_s=st.sampled_from([0.0, 1.0, 5.0]))
    def begin(self, max_size: int, wait_s: float) -> None:
        global WORLD
        self.world = WORLD = World()
        self.max_batches = 1
        self.target_s: float | None = None
        self.calls: dict[int, tuple[Query, Call]] = {}
        self.cancelled: set[int] = set()
        self.never: set[int] = set()
        """Calls that were given up, or expired, before they ran."""
        self.expected: dict[int, str] = {}
        self.loop = VirtualTimeLoop()
        config = self._config(max_size, wait_s)
        self.replica = MemoryReplica(Model, config=config)
        self._do(self._open())

    async def _open(self) -> None:
        await self.replica.__aenter__()
        self.router = Router(instance=INSTANCE)
        self.router.apply(table_of(1, {"b": [self.replica]}, max_concurrent_queries=LIMIT))

    def _do(self, work: Awaitable[T] | None = None) -> T | None:
        """Run something, and then all that follows from it without time passing."""

        async def main() -> T | None:
            result = await work if work is not None else None
            await settle()
            return result

        self.world.acted_at = self.loop.time()
        return self.loop.run_until_complete(main())

    def _config(self, max_size: int, wait_s: float) -> ReplicaConfig:
        world = self.world
        world.max_size, world.wait_s, world.fixed = max_size, wait_s, self.target_s is None
        return ReplicaConfig(
            max_batch_size=max_size,
            batch_wait_timeout_s=wait_s,
            max_concurrent_batches=self.max_batches,
            max_concurrent_queries=LIMIT,
            target_latency_s=self.target_s,
            http_methods=("other",),
        )

    @rule(
        count=st.integers(1, 6),
        method=st.sampled_from(["", "other"]),
        buckets=st.text("ab", min_size=6, max_size=6),
        codec=st.sampled_from([CODEC_HTTP, CODEC_OBJECT]),
        timeout_s=st.sampled_from([1e6, 1e6, 1e6, 4.0]),
        regretted=st.sampled_from([0, 0, 0, 1, 2]),
    )
    def submit(self, count: int, method: str, buckets: str, codec: int, timeout_s: float, regretted: int) -> None:
        """The first ``regretted`` of them are given up at once. The very first may be on its way by then, when no other
        call is; to the others nothing can have happened."""

        async def work() -> None:
            for number in range(count):
                query = Query(len(self.calls) + 1, method, buckets[number], codec)
                text = f"{query.number} {query.bucket}"
                body = text.encode() if codec == CODEC_HTTP else pickle.dumps((text, {}))
                call = new_call(method_name=method, codec=codec, body=body, timeout_s=timeout_s)
                self.world.submitted_at[query.number] = self.loop.time()
                self.calls[query.number] = query, call
                self.router.submit(call)
                if number < regretted:
                    self.router.cancel(call)
                    self.cancelled.add(query.number)
                    if number:
                        self.never.add(query.number)

        self._do(work())

    @precondition(lambda self: self._open_calls())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(self._open_calls()))

        async def work() -> None:
            self.cancelled.add(number)
            if number not in self.world.started:
                self.never.add(number)
            self.router.cancel(self.calls[number][1])

        self._do(work())

    @rule(seconds=st.sampled_from([0.3, 1.0, 2.0, 7.0]))
    def let_time_pass(self, seconds: float) -> None:
        self._do(asyncio.sleep(seconds))

    @rule(
        max_size=st.integers(1, 5),
        wait_s=st.sampled_from([0.0, 1.0, 5.0]),
        max_batches=st.integers(1, 3),
        target_s=st.sampled_from([None, None, 0.05, 2.0]),
    )
    def change(self, max_size: int, wait_s: float, max_batches: int, target_s: float | None) -> None:
        self.max_batches, self.target_s = max_batches, target_s

        async def work() -> None:
            self.replica.runtime.configure(self._config(max_size, 0.0 if target_s else wait_s))

        self._do(work())

    @precondition(lambda self: self.world.running)
    @rule(data=st.data(), kind=st.sampled_from(OUTCOMES))
    def finish(self, data: st.DataObject, kind: str) -> None:
        self._finish(data.draw(st.sampled_from(self.world.running)), kind)

    @precondition(lambda self: self.world.running)
    @rule()
    def finish_well(self) -> None:
        self._finish(self.world.running[0], "answers")

    def _finish(self, batch: Batch, kind: str) -> None:
        for query in batch.queries:
            own = kind == "objects" and query.number % 2
            self.expected[query.number] = "own" if own else "answers" if kind == "objects" else kind

        async def work() -> None:
            batch.outcome.set_result(kind)

        self._do(work())

    def _open_calls(self) -> list[int]:
        return [number for number, (_, call) in self.calls.items() if not call.future.done()]

    def _waiting(self) -> dict[tuple[str, str], list[int]]:
        """By key, those that still have to be taken into a batch, in order."""
        waiting: dict[tuple[str, str], list[int]] = {}
        for number in self._open_calls():
            if number not in self.world.started:
                waiting.setdefault(self.calls[number][0].key, []).append(number)
        return waiting

    @invariant()
    def nothing_wrong_was_seen(self) -> None:
        assert not self.world.problems, self.world.problems
        assert not self.loop.unhandled, self.loop.unhandled
        assert len(self.world.running) <= 3

    @invariant()
    def nothing_waits_that_is_due(self) -> None:
        """While there is room for a batch, none is full, and no first one has waited longer than it may."""
        if len(self.world.running) >= self.max_batches:
            return
        now, world = self.loop.time(), self.world
        longest_s = world.wait_s if self.target_s is None else self.target_s
        for numbers in self._waiting().values():
            assert len(numbers) < world.max_size, f"{numbers} are a full batch, and wait"
            assert now < world.submitted_at[numbers[0]] + longest_s, f"{numbers} have waited too long"

    @invariant()
    def everybody_gets_what_is_theirs(self) -> None:
        for number, (query, call) in self.calls.items():
            if not call.future.done():
                assert number not in self.expected, f"{number} has ended and its caller does not know"
            elif number in self.cancelled:
                assert call.future.cancelled()  # type: ignore[attr-defined]
            else:
                self._check_end(query, call)
        ran = self.never & self.world.started.keys()
        assert not ran, f"{ran} were given up before they ran, and ran"

    def _check_end(self, query: Query, call: Call) -> None:
        future: asyncio.Future[Any] = call.future  # type: ignore[assignment]
        error, kind = future.exception(), self.expected.get(query.number)
        if isinstance(error, DeadlineExceededError):
            assert self.loop.time() >= call.deadline
            if query.number not in self.world.started:
                self.never.add(query.number)
            return
        assert kind is not None, f"{query.number} has ended with {future} and has not run"
        if kind == "answers":
            assert error is None, error
            body = future.result().body
            text = body.decode() if query.codec == CODEC_HTTP else pickle.loads(body)
            assert text == f"answer {query.number}"
            return
        assert error is not None, f"{query.number} was answered, and should have failed: {kind}"
        if query.codec == CODEC_HTTP:
            assert isinstance(error, UserCodeError)
        elif kind == "raises":
            assert type(error) is ValueError
        elif kind == "own":
            assert type(error) is KeyError
        elif kind == "exits":
            assert isinstance(error, (RemoteError, RuntimeError))
        if kind == "own":
            assert f"own {query.number}" in str(error)
        if kind == "short":
            assert "doesn't preserve batch size" in str(error)
        if kind == "no list":
            assert "iterable" in str(error)

    def teardown(self) -> None:
        if not hasattr(self, "router"):
            return
        try:
            for _ in self.calls:  # nothing is lost: each of them ends when user code and time go on
                if not self._open_calls():
                    break
                self._do(asyncio.sleep(6))
                for batch in list(self.world.running):
                    self._finish(batch, "answers")
            for batch in list(self.world.running):  # those that all their members have left
                self._finish(batch, "answers")
            self.nothing_wrong_was_seen()
            self.everybody_gets_what_is_theirs()
            assert not self._open_calls(), "calls were lost"
            assert self.replica.runtime.load == 0, "the replica keeps calls that have ended"
            self.router.validate()
            last = self._do(self._submit_last())
            assert last is not None
            self._do(asyncio.sleep(6))
            while self.world.running:
                self._finish(self.world.running[0], "answers")
            assert [call.future.result().body for call in last] == [b"answer 9001", b"answer 9002"]  # type: ignore[attr-defined]
        finally:
            self._close()

    async def _submit_last(self) -> list[Call]:
        calls = [new_call(body=b"%d a" % number, timeout_s=100.0) for number in (9001, 9002)]
        self.world.submitted_at |= {9001: self.loop.time(), 9002: self.loop.time()}
        for call in calls:
            self.router.submit(call)
        return calls

    def _close(self) -> None:
        async def work() -> None:
            await self.router.aclose()
            await self.replica.__aexit__(None, None, None)
            self.replica.runtime._worker.stop()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self.loop.run_until_complete(work())
        self.loop.close()


@pytest.mark.slow
def test_no_answer_is_lost_or_goes_astray() -> None:
    """Whatever callers, operators and user code do, every call runs at most once, in a batch that it belongs in, and
    ends with its own answer, its own failure, or as given up (BA3-BA6, BA11, BA12, BA15, F2, F26, F39)."""
    run_state_machine_as_test(Batching, settings=examples(150, stateful_step_count=30, database=None))
