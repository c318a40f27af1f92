"""replica.failurelog: what user code raised, as the log of its replica says it, once; and what an ingress says then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pointsman.exceptions import RemoteTraceback
from pointsman.model import Reason
from pointsman.request import accept_batch
from pointsman.telemetry.logs import TextFormatter, head_of
from pointsman.testing import MemoryReplica, run, settle
from pointsman.wire.frames import Kind
from pointsman.wire.messages import FailureHead, pack
from tests.loop.test_http_edge import edge
from tests.loop.test_runtime import Caller, with_replica


class Fails:
    """In every way that there is."""

    def __call__(self, request: Any) -> None:
        raise ValueError("no model\nat all")

    async def later(self, request: Any) -> None:
        raise ValueError("no model")

    def stream(self, request: Any) -> Iterator[str]:
        yield "first"
        raise ValueError("no model")

    async def stream_later(self, request: Any) -> AsyncIterator[str]:
        yield "first"
        raise ValueError("no model")

    def unfit(self, request: Any) -> object:
        return object()

    @accept_batch
    def batch(self, requests: list[Any]) -> list[Any]:
        raise ValueError("no model")

    @accept_batch
    async def batch_later(self, requests: list[Any]) -> list[Any]:
        raise ValueError("no model")

    @accept_batch
    def members(self, requests: list[Any]) -> list[Any]:
        return ["fine", *(ValueError("no model") for _ in requests[1:])]

    def passes_on(self, request: Any) -> None:
        error = ValueError("no model")
        error.__cause__ = RemoteTraceback("Traceback: of the replica that was asked")
        raise error

    def changes(self, request: Any) -> None:
        try:
            self.passes_on(request)
        except ValueError as error:
            raise LookupError("of my own") from error

    async def waits(self, request: Any) -> None:
        await asyncio.sleep(60)


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.ERROR) -> list[str]:
    """What the log of the replica says at this level, as text."""
    records = [record for record in caplog.records if record.name == "pointsman.replica" and record.levelno == level]
    return [TextFormatter().format(record) for record in records]


def ids(line: str) -> set[str]:
    head = head_of(line)
    assert head is not None
    return set(head.request_ids)


async def failed(caller: Caller, calls: list[int]) -> None:
    await caller.until(lambda: sum(frame.kind == Kind.FAILURE for frame in caller.frames) == len(calls))


@pytest.mark.parametrize("method", ["__call__", "later", "stream", "stream_later", "unfit"])
def test_an_exception_is_logged_by_its_replica(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever kind of code raised, the log of its replica has one entry, with the traceback and the request's id,
    which is the error id that the client was given (HE1)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        await failed(caller, [caller.call(method=method)])

    with_replica(test, Fails)
    [entry] = lines(caplog)
    assert ids(entry) == {"r1"}
    error = "AnswerError" if method == "unfit" else "ValueError: no model"
    first, second, *rest = entry.split("\n")
    assert f"raised {error}" in first
    assert second == "    Traceback (most recent call last):" or method == "unfit"
    assert all(line.startswith("    ") for line in rest)


@pytest.mark.parametrize("method", ["batch", "batch_later"])
def test_a_batch_that_fails_is_one_entry(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """A batch of three that fails as one is logged once, under the ids of all three (BA7, HE1)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        await failed(caller, [caller.call(method=method) for _ in range(3)])

    with_replica(test, Fails, max_batch_size=3, batch_wait_timeout_s=60)
    [entry] = lines(caplog)
    assert ids(entry) == {"r1", "r2", "r3"}


def test_members_that_fail_alone_have_an_entry_each(caplog: pytest.LogCaptureFixture) -> None:
    """Where a batch's answers hold exceptions, each is logged under the id of its own request."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        await failed(caller, [caller.call(method="members") for _ in range(3)][1:])

    with_replica(test, Fails, max_batch_size=3, batch_wait_timeout_s=60)
    assert [ids(entry) for entry in lines(caplog)] == [{"r2"}, {"r3"}]


def test_a_flood_of_failures_is_held_back(caplog: pytest.LogCaptureFixture) -> None:
    """When every request fails ten tracebacks a second are logged, and then how many were not (H10)."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        await failed(caller, [caller.call(method="later") for _ in range(50)])
        assert len(lines(caplog)) == 10

    with_replica(test, Fails, max_concurrent_queries=100)


def test_what_another_backend_raised_is_not_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    """An exception that came by a handle has its traceback in the log of the replica that raised it; here it is only
    named, in the file. One that my code makes of it is my code's."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        await failed(caller, [caller.call(method="passes_on")])
        assert lines(caplog) == []
        [named] = lines(caplog, logging.INFO)
        assert "passed on ValueError" in named
        assert "no model" not in named
        assert ids(named) == {"r1"}
        await failed(caller, [1, caller.call(method="changes")])

    caplog.set_level(logging.INFO)
    with_replica(test, Fails)
    [entry] = lines(caplog)
    assert "raised LookupError: of my own" in entry


def test_callers_mistakes_and_departures_are_no_failures(caplog: pytest.LogCaptureFixture) -> None:
    """A method that does not exist, and a caller who leaves, put nothing into the log."""

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        await failed(caller, [caller.call(method="no_such")])
        leaves = caller.call(method="waits")
        await settle()
        caller.stream.send(Kind.CANCEL, leaves)
        await settle()
        assert replica.runtime.load == 0

    with_replica(test, Fails)
    assert lines(caplog) == []


@pytest.mark.parametrize("method", ["__call__", "later"])
def test_a_log_that_raises_costs_no_answer(method: str, caplog: pytest.LogCaptureFixture) -> None:
    """User code may put a filter onto its log that fails: callers are told all the same, and the replica goes on."""

    def broken(record: logging.LogRecord) -> bool:
        raise RuntimeError("in the filter")

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        await failed(caller, [caller.call(method=method), caller.call(method=method)])

    logger = logging.getLogger("pointsman.replica")
    logger.addFilter(broken)
    try:
        with_replica(test, Fails)
    finally:
        logger.removeFilter(broken)


def test_control_characters_of_an_exception_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An exception's text that holds what a client has sent can neither move my cursor nor forge a line (H10)."""

    def echo(request: Any) -> None:
        raise ValueError("a\x1b[31m\rb\u2028c\n2026-11-28T09:30:00.123Z ERROR forged: line")

    async def test(replica: MemoryReplica, caller: Caller) -> None:
        await failed(caller, [caller.call()])

    with_replica(test, echo)
    [entry] = lines(caplog)
    assert "a?[31m?b?c" in entry
    assert all(line.isprintable() for line in entry.split("\n"))
    assert [head_of(line) is None for line in entry.split("\n")[1:]] == [True] * entry.count("\n")


def test_an_ingress_names_the_request_only(caplog: pytest.LogCaptureFixture) -> None:
    """The HTTP server's log says which request failed in which backend, without what the replica has said already."""

    async def main() -> None:
        async with edge() as there:
            client = await there.client()
            client.head(content_length=0, x_request_id="id1")
            await settle()
            [call_id] = there.replica.calls
            failure = FailureHead(Reason.USER_CODE, "ValueError", "no model", traceback="Traceback: long")
            there.replica._send(Kind.FAILURE, call_id, pack(failure))
            await settle()
            assert client.error["error_id"] == "id1"

    caplog.set_level(logging.INFO)
    run(main())
    [record] = [record for record in caplog.records if record.name.startswith("pointsman.ingress")]
    line = TextFormatter().format(record)
    assert line.endswith("INFO pointsman.ingress.app: [id1] the request failed with 500 in backend 'b'")
