"""One call inside a replica, and what the members of a batch have in common."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from msgspec.structs import replace

from pointsman.context import CallScope, call_scope
from pointsman.exceptions import DeadlineExceededError
from pointsman.incoming import CODEC_HTTP, Incoming
from pointsman.model import Reason
from pointsman.replica.answers import Answer
from pointsman.replica.batching import BatchRule
from pointsman.replica.mistakes import answer_of, bad_body, http_exception
from pointsman.replica.target import Method
from pointsman.telemetry.tracing import Span
from pointsman.wire.failures import describe_failure
from pointsman.wire.frames import Body
from pointsman.wire.messages import CallHead, FailureHead, failure
from pointsman.wire.pickling import loads
from pointsman.wire.stream import Stream

DEADLINE_SLACK_S = 0.05
"""How much sooner the deadline of an inner call may pass, which is counted in whole milliseconds on its way."""


class Ending(NamedTuple):
    """What comes of a call that user code has raised for: a failure or, where the exception stands for one, an answer.

    ``failed`` is False for what the client has done wrong: that is no error of the backend.
    """

    failed: bool
    failure: FailureHead | None = None
    pickled: bytes = b""
    answer: Answer | None = None


class Item:
    """One call inside the replica. ``over`` is set once, by whoever ends it: answered, failed, or cancelled."""

    __slots__ = (
        "_given",
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
        "opened",
        "over",
        "request",
        "span",
        "stream",
        "task",
    )

    def __init__(self, stream: Stream, call_id: int, head: CallHead, body: Body, method: Method) -> None:
        self.stream = stream
        self.call_id = call_id
        self.head = head
        self.request = head.request
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
        self.opened = False
        """Whether its answer has begun to stream."""
        self._given: Any = None
        self._incoming: Incoming | None = None
        self._scope: CallScope | None = None
        self.batch_scope: CallScope | None = None
        """Shared with the other members of its batch."""
        self.task: asyncio.Task[None] | None = None
        self.credit: threading.Semaphore | asyncio.Semaphore | None = None

    def scope(self) -> CallScope:
        """What inner calls inherit."""
        if self._scope is None:
            headers = self.request.headers if self.span is None else self.span.carried(self.request.headers)
            self._scope = CallScope(self.deadline, self.request.request_id, headers)
        return self._scope

    def enter_stream(self, *, opened: bool = True) -> None:
        """The answer has begun, and with it the deadline has been met: what follows may take its time. ``opened`` says
        whether the caller has been told."""
        self.opened = opened
        call_scope.set(self.scope().without_deadline())

    def wants_no_body(self) -> bool:
        """Whether the caller wants to know of the answer's head only."""
        return self.request.http_method == "HEAD" and self.request.codec == CODEC_HTTP

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

    def ending(self, error: BaseException) -> Ending:
        """What its caller is told of an error of user code. Never raises."""
        if isinstance(error, DeadlineExceededError) and self.deadline - time.monotonic() < DEADLINE_SLACK_S:
            # A call that user code made has inherited our deadline, and the news of it has come first.
            return Ending(True, failure(Reason.DEADLINE, "DeadlineExceededError", str(error)))
        over_http = self.request.codec == CODEC_HTTP
        is_answer = http_exception(error) and not self.opened
        if is_answer and over_http:
            try:
                return Ending(False, answer=answer_of(error))
            except Exception as unfit:  # noqa: BLE001 - status, detail and headers are user code's
                is_answer, error = False, unfit
        fault = "" if is_answer or self.opened else bad_body(error, self._incoming, self._given)
        if fault and over_http:
            return Ending(False, failure(Reason.BAD_BODY, type(error).__name__, fault))
        told, pickled = describe_failure(error, with_object=not over_http, portable=http_exception(error))
        incoming = self._incoming
        if fault and incoming is not None and incoming.kwargs is None:  # passed on to us as it came
            told = replace(told, reason=Reason.BAD_BODY, text=fault, body_of=incoming.head.request_id)
        return Ending(not (is_answer or fault), told, pickled)

    def timing(self) -> tuple[int, int]:
        """How long it waited and has run, in microseconds, for callers that want to know."""
        if not self.head.timed:
            return 0, 0
        return int((self.began - self.arrived) * 1e6), int((time.monotonic() - self.began) * 1e6)

    def user_request(self) -> Any:
        """The request in the form that user code wants."""
        self._given = request = self.method.request(self.incoming())
        return request

    def incoming(self) -> Incoming:
        """The call, unpacked; once. Unpickles the arguments of a handle call, so it runs where user code runs."""
        if self._incoming is None:
            self._incoming = self._unpack()
        return self._incoming

    def _unpack(self) -> Incoming:
        request = self.request
        if request.codec == CODEC_HTTP:
            return Incoming(request, bytes(self.frame_body), None)
        data, kwargs = loads(self.frame_body)
        if isinstance(data, Incoming):  # a request that another backend was given, and passed on
            return data
        return Incoming(request, data, kwargs)


def unpacked(items: list[Item], fail: Callable[[Item, BaseException], None]) -> tuple[list[Item], list[Any]]:
    """The members of a batch that can be unpacked, with their requests: a bad one must not take the others along."""
    good, requests = [], []
    for item in items:
        try:
            requests.append(item.user_request())
            good.append(item)
        except BaseException as error:  # noqa: BLE001 - unpickling runs user code
            fail(item, error)
    return good, requests


def scope_of(items: list[Item]) -> CallScope:
    """What inner calls inherit: of a batch, the latest of the deadlines and one of the ids."""
    if len(items) == 1:
        return items[0].scope()
    first, deadline = items[0].scope(), max(item.deadline for item in items)
    ids = [item.request.request_id for item in items]
    scope = CallScope(deadline, first.request_id, first.headers, callers=len(items), request_ids=ids)
    for item in items:
        item.batch_scope = scope
    return scope


def learn(rule: BatchRule, items: list[Item], began: float) -> None:
    """Tell the rule of batches how long these took that user code has just been given."""
    if items:
        ended = time.monotonic()
        rule.learn(len(items), began=began, ended=ended, oldest=min(item.arrived for item in items))
