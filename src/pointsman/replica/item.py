"""One call inside a replica, and what the members of a batch share."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from msgspec.structs import replace

from pointsman.context import CallScope, UsedModels, call_scope
from pointsman.exceptions import DeadlineExceededError
from pointsman.incoming import CODEC_HTTP, Incoming
from pointsman.model import Reason
from pointsman.replica.answers import Answer
from pointsman.replica.batching import BatchRule
from pointsman.replica.methods import Method
from pointsman.replica.mistakes import answer_of, bad_body, http_exception, misfit_of
from pointsman.request import Request
from pointsman.telemetry.tracing import Span
from pointsman.usercode.misfits import Misfit
from pointsman.wire.failures import describe_failure
from pointsman.wire.frames import Body
from pointsman.wire.messages import CallHead, FailureHead, failure
from pointsman.wire.pickling import loads
from pointsman.wire.stream import Stream

DEADLINE_SLACK_S = 0.05
"""How much earlier an inherited deadline may pass: on its way it is rounded down to milliseconds."""


class Ending(NamedTuple):
    """The outcome of a call for which user code raised: a failure or, for an ``HTTPException``, an answer.

    ``failed`` is False if the client is at fault: then it is no error of the backend.
    """

    failed: bool
    failure: FailureHead | None = None
    pickled: bytes = b""
    answer: Answer | None = None


class Item:
    """One call inside the replica.

    Attributes:
        began: when user code was called; 0 while the call waits.
        counted: whether the metrics have it as processed.
        key: items of different keys never share a batch.
        mark: its slot in the file of started calls; None while it is in none.
        over: set once the call is answered, has failed, or is cancelled. Later outcomes are dropped.
        opened: whether its answer has begun to stream.
        batch_scope: scope shared with the other members of its batch.
        task: that runs it, or sends its answer.
        credit: chunks that its stream may still send; None unless it streams.
        models: what models it uses; None where it can use none.
    """

    __slots__ = (
        "_incoming",
        "_scope",
        "_user_request",
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
        "models",
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
        self.span: Span | None = None
        self.counted = False
        self.deadline = self.arrived + head.budget_ms / 1000
        self.key: Hashable = ""
        self.mark: int | None = None
        self.over = False
        self.opened = False
        self._user_request: Any = None
        self._incoming: Incoming | None = None
        self._scope: CallScope | None = None
        self.batch_scope: CallScope | None = None
        self.models: UsedModels | None = None
        self.task: asyncio.Task[None] | None = None
        self.credit: threading.Semaphore | asyncio.Semaphore | None = None

    def scope(self) -> CallScope:
        """What calls made by user code inherit: deadline, request id, trace headers."""
        if self._scope is None:
            headers = self.request.headers if self.span is None else self.span.carried(self.request.headers)
            self._scope = CallScope(self.deadline, self.request.request_id, headers)
            if self.models is not None:
                self._scope.models = self.models
        return self._scope

    def end_models(self) -> None:
        """No code of this call runs any more. Any thread, one at a time."""
        models, self.models = self.models, None
        if models is not None:
            models.end()
            if self.batch_scope is not None and self.batch_scope.models is not None:
                self.batch_scope.models.end()

    def enter_stream(self, *, opened: bool = True) -> None:
        """The answer begins to stream, which meets the deadline: calls that user code makes from now on have none.
        ``opened`` says whether the caller has the beginning already."""
        self.opened = opened
        call_scope.set(self.scope().without_deadline())

    def wants_no_body(self) -> bool:
        """True for HEAD: the caller gets the answer's head only."""
        return self.request.http_method == "HEAD" and self.request.codec == CODEC_HTTP

    def give_up_inner_calls(self) -> None:
        """Cancel the calls that user code has made for this one, since its caller has gone."""
        if self._incoming is not None:
            self._incoming.left = True  # for `request.is_disconnected()`
        streams = self.credit is not None
        if not streams and self.deadline - time.monotonic() < DEADLINE_SLACK_S:
            return  # they have inherited the deadline, and fail by it now, with an error that names it
        for scope in (self._scope, self.batch_scope):
            if scope is not None:
                scope.give_up()

    def grant(self, chunks: int) -> None:
        """Allow the stream to send ``chunks`` more chunks."""
        if self.credit is not None:
            for _ in range(chunks):
                self.credit.release()

    def ending(self, error: BaseException) -> Ending:
        """The outcome for the caller when user code raised ``error``. Never raises."""
        if isinstance(error, DeadlineExceededError) and self.deadline - time.monotonic() < DEADLINE_SLACK_S:
            # An inner call had inherited this call's deadline, and noticed it first.
            return Ending(True, failure(Reason.DEADLINE, "DeadlineExceededError", str(error)))
        over_http = self.request.codec == CODEC_HTTP
        if isinstance(error, Misfit):
            return Ending(False, *misfit_of(error, self._incoming, over_http=over_http))
        is_answer = http_exception(error) and not self.opened
        if is_answer and over_http:
            try:
                return Ending(False, answer=answer_of(error))
            except Exception as unfit:  # noqa: BLE001 - status, detail and headers are user code's
                is_answer, error = False, unfit
        fault = "" if is_answer or self.opened else bad_body(error, self._incoming, self._user_request)
        if fault and over_http:
            return Ending(False, failure(Reason.BAD_BODY, type(error).__name__, fault))
        head, pickled = describe_failure(error, with_object=not over_http, portable=http_exception(error))
        incoming = self._incoming
        if fault and incoming is not None and incoming.kwargs is None:  # an HTTP request that was passed on by a handle
            head = replace(head, reason=Reason.BAD_BODY, text=fault, body_of=incoming.head.request_id)
        return Ending(not (is_answer or fault), head, pickled)

    def timing(self) -> tuple[int, int]:
        """Microseconds that the call waited, and has run; zeros unless the caller wants to know."""
        if not self.head.timed:
            return 0, 0
        return int((self.began - self.arrived) * 1e6), int((time.monotonic() - self.began) * 1e6)

    def user_request(self) -> Any:
        """The request object for user code; the arguments of a typed callable, which are read once."""
        request = self._user_request
        if request is None:
            self._user_request = request = self.method.request(self.incoming())
        return request

    def incoming(self) -> Incoming:
        """The unpacked call. The first call unpickles a handle call's arguments, so it runs where user code runs."""
        if self._incoming is None:
            self._incoming = self._unpack()
        return self._incoming

    def bucket(self) -> Hashable:
        """Only items of one bucket share a batch. Raises what user code raises."""
        return self.method.bucket(Request(self.incoming()))

    def _unpack(self) -> Incoming:
        request = self.request
        if request.codec == CODEC_HTTP:
            return Incoming(request, bytes(self.frame_body), None)
        data, kwargs = loads(self.frame_body)
        if isinstance(data, Incoming):  # a request that another backend passed on
            return data
        return Incoming(request, data, kwargs)


def with_requests(items: list[Item], fail: Callable[[Item, BaseException], None]) -> tuple[list[Item], list[Any]]:
    """The members of a batch that can be unpacked, and their requests. The others are given to ``fail``."""
    good, requests = [], []
    for item in items:
        try:
            requests.append(item.user_request())
            good.append(item)
        except BaseException as error:  # noqa: BLE001 - unpickling runs user code
            fail(item, error)
    return good, requests


def scope_of(items: list[Item]) -> CallScope:
    """What calls made by user code inherit. A batch has the latest deadline and the first request id of its members."""
    if len(items) == 1:
        return items[0].scope()
    first, deadline = items[0].scope(), max(item.deadline for item in items)
    ids = [item.request.request_id for item in items]
    scope = CallScope(deadline, first.request_id, first.headers, callers=len(items), request_ids=ids)
    if first.models is not None:
        scope.models = UsedModels(first.models.id, holders=len(items))
    for item in items:
        item.batch_scope = scope
    return scope


def report_batch(rule: BatchRule, items: list[Item], began: float) -> None:
    """Record the duration of a batch that user code has just processed."""
    if items:
        ended = time.monotonic()
        rule.learn(len(items), began=began, ended=ended, oldest=min(item.arrived for item in items))
