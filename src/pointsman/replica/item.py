"""One call inside a replica, and what the members of a batch have in common."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

from pointsman.context import CallScope, call_scope
from pointsman.exceptions import DeadlineExceededError
from pointsman.incoming import Incoming
from pointsman.model import Reason
from pointsman.objects import loads
from pointsman.replica.batchrule import BatchRule
from pointsman.replica.failure import describe_failure
from pointsman.replica.target import Method
from pointsman.tracing import Span
from pointsman.wire.frames import Body
from pointsman.wire.messages import CODEC_HTTP, CallHead, FailureHead, failure
from pointsman.wire.stream import Stream

DEADLINE_SLACK_S = 0.05
"""How much sooner the deadline of an inner call may pass, which is counted in whole milliseconds on its way."""


class Item:
    """One call inside the replica. ``over`` is set once, by whoever ends it: answered, failed, or cancelled."""

    __slots__ = (
        "_incoming",
        "_scope",
        "arrived",
        "batch_scope",
        "began",
        "call_id",
        "counted",
        "credit",
        "deadline",
        "frame_body",
        "head",
        "key",
        "mark",
        "method",
        "over",
        "span",
        "stream",
        "task",
    )

    def __init__(self, stream: Stream, call_id: int, head: CallHead, body: Body, method: Method) -> None:
        self.stream = stream
        self.call_id = call_id
        self.head = head
        self.frame_body = body
        self.method = method
        self.arrived = time.monotonic()
        self.began = 0.0
        """When user code was given it; 0 while it waits."""
        self.span: Span | None = None
        self.counted = False
        """Whether the metrics have it as processed."""
        self.deadline = self.arrived + head.budget_ms / 1000
        self.key: Hashable = ""
        """Items of different keys never share a batch."""
        self.mark: int | None = None
        """Where the call is noted as started; None while it is not."""
        self.over = False
        self._incoming: Incoming | None = None
        self._scope: CallScope | None = None
        self.batch_scope: CallScope | None = None
        """Shared with the other members of its batch."""
        self.task: asyncio.Task[None] | None = None
        self.credit: threading.Semaphore | asyncio.Semaphore | None = None

    def scope(self) -> CallScope:
        """What inner calls inherit."""
        if self._scope is None:
            headers = self.head.headers if self.span is None else self.span.carried(self.head.headers)
            self._scope = CallScope(self.deadline, self.head.request_id, headers)
        return self._scope

    def enter_stream(self) -> None:
        """The answer has begun, and with it the deadline has been met: what follows may take its time."""
        call_scope.set(self.scope().without_deadline())

    def give_up_inner_calls(self) -> None:
        """Nobody waits for the answer any more, nor for those of calls that were made for it."""
        if self._incoming is not None:
            self._incoming.left = True  # for user code that asks
        streams = self.credit is not None
        if not streams and self.deadline - time.monotonic() < DEADLINE_SLACK_S:
            return  # they have inherited the deadline, and end by it now, with the error that says so
        for scope in (self._scope, self.batch_scope):
            if scope is not None:
                scope.give_up()

    def grant(self, chunks: int) -> None:
        """The reader of its stream has room for so many more chunks."""
        if self.credit is not None:
            for _ in range(chunks):
                self.credit.release()

    def describe(self, error: BaseException) -> tuple[FailureHead, bytes]:
        """What its caller is told of an error of user code."""
        if isinstance(error, DeadlineExceededError) and self.deadline - time.monotonic() < DEADLINE_SLACK_S:
            # A call that user code made has inherited our deadline, and the news of it has come first.
            return failure(Reason.DEADLINE, "DeadlineExceededError", str(error)), b""
        return describe_failure(error, with_object=self.head.codec != CODEC_HTTP)

    def timing(self) -> tuple[int, int]:
        """How long it waited and has run, in microseconds, for callers that want to know."""
        if not self.head.timed:
            return 0, 0
        return int((self.began - self.arrived) * 1e6), int((time.monotonic() - self.began) * 1e6)

    def request(self) -> Any:
        """The request in the form that user code wants."""
        return self.method.request(self.incoming())

    def incoming(self) -> Incoming:
        """The call, unpacked; once. Unpickles the arguments of a handle call, so it runs where user code runs."""
        if self._incoming is None:
            self._incoming = self._unpack()
        return self._incoming

    def _unpack(self) -> Incoming:
        head = self.head
        data: Any
        kwargs: dict[str, Any] | None = None
        if head.codec != CODEC_HTTP:
            data, kwargs = loads(self.frame_body)
            if isinstance(data, Incoming):  # a request that another backend was given, and passed on
                return data
        else:
            data = bytes(self.frame_body)
        return Incoming(
            endpoint=head.endpoint,
            http_method=head.http_method,
            path=head.path,
            query=head.query,
            headers=head.headers,
            path_params=head.path_params,
            client=head.client,
            request_id=head.request_id,
            data=data,
            kwargs=kwargs,
        )


def unpacked(items: list[Item], fail: Callable[[Item, BaseException], None]) -> tuple[list[Item], list[Any]]:
    """The members of a batch that can be unpacked, with their requests: a bad one must not take the others along."""
    good, requests = [], []
    for item in items:
        try:
            requests.append(item.request())
            good.append(item)
        except BaseException as error:  # noqa: BLE001 - unpickling runs user code
            fail(item, error)
    return good, requests


def scope_of(items: list[Item]) -> CallScope:
    """What inner calls inherit: of a batch, the latest of the deadlines and one of the ids."""
    if len(items) == 1:
        return items[0].scope()
    first, deadline = items[0].scope(), max(item.deadline for item in items)
    scope = CallScope(deadline, first.request_id, first.headers, callers=len(items))
    for item in items:
        item.batch_scope = scope
    return scope


def learn(rule: BatchRule, items: list[Item], began: float) -> None:
    """Tell the rule of batches how long these took that user code has just been given."""
    if items:
        ended = time.monotonic()
        rule.learn(len(items), began=began, ended=ended, oldest=min(item.arrived for item in items))
