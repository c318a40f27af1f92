"""Brings the two answers of a copied call together, and hands them to whoever compares them (decision 0080).

Only a call that is copied to a comparing shadow comes here. Its caller has its answer first.
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple, Protocol

from pointsman.comparing.answers import NO_ROOM, TOO_LARGE, Answer
from pointsman.exceptions import (
    BackpressureError,
    CallRejectedError,
    DeadlineExceededError,
    RemoteError,
    ReplicaDiedError,
    ServeException,
    UserCodeError,
)
from pointsman.incoming import CODEC_HTTP, RequestHead
from pointsman.model import Comparison
from pointsman.routing.call import Call, CallFuture
from pointsman.routing.reply import Reply
from pointsman.wire.frames import Body
from pointsman.wire.pairs import MAX_ANSWER, NO_ANSWER, NOT_RUN, Pair, Sides

clock = time.monotonic


class Subject(NamedTuple):
    """What is compared: the answers of a shadow of an endpoint."""

    endpoint: str
    backend: str
    comparison: Comparison


class PairSink(Protocol):
    """Takes pairs on the router's loop, and returns at once."""

    def hold(self, size: int) -> bool:
        """Whether there is room for so many more bytes, which are then taken until they are released."""

    def release(self, size: int) -> None:
        """These bytes are held no more."""

    def number(self, subject: Subject) -> int:
        """The number of a comparison in messages."""

    def compare(self, pair: Pair) -> None:
        """Have the answers compared. Their bytes are released already."""

    def missed(self, number: int, sides: Sides, reason: str) -> None:
        """Count a copied call that is not compared."""

    async def aclose(self) -> None:
        """The router has ended."""


class Pairing:
    """The two answers of one call, of which none has come yet.

    Args:
        sink: takes them.
        number: of the comparison.
        sides: who is to answer, with the versions that are the newest ones now.
        request: of the call.
        route: of the endpoint; None without one.
    """

    __slots__ = ("_began", "_held", "_number", "_over", "_request", "_route", "_sides", "_sink", "_there")

    def __init__(self, sink: PairSink, number: int, sides: Sides, request: RequestHead, route: str | None) -> None:
        self._sink = sink
        self._number = number
        self._sides = sides
        self._request = request
        self._route = route
        self._began = clock()
        self._there: dict[bool, tuple[Answer, float, int]] = {}
        self._held = 0
        self._over = False

    def give_up(self, reason: str) -> None:
        """The two are not compared. Counts the first time only."""
        if not self._over:
            self._end()
            self._sink.missed(self._number, self._sides, reason)

    def answered(self, call: Call, reply: Reply, *, shadow: bool) -> None:
        """One of the two calls has its answer, or the beginning of it."""
        if self._over:
            return
        seconds, version = self._how(call)
        if reply.stream is not None:
            reply.stream.watcher = _Gathering(self, reply, seconds, version, shadow=shadow)
        elif len(reply.body) > MAX_ANSWER:
            self.give_up(TOO_LARGE)
        elif self.take(len(reply.body)):
            self.came(Answer(reply.status, _content_type(reply), bytes(reply.body)), seconds, version, shadow=shadow)

    def failed(self, call: Call, error: BaseException, *, shadow: bool) -> None:
        """One of the two calls has none."""
        if self._over:
            return
        status = status_of(error)
        if shadow and isinstance(error, DeadlineExceededError) and not error.started:
            self.give_up(NOT_RUN)  # copies wait behind users' calls, so this says nothing about the backend
        elif not status:
            self.give_up(NO_ANSWER)
        else:
            self.came(Answer(status, error=type(error).__name__), *self._how(call), shadow=shadow)

    def take(self, size: int) -> bool:
        """Hold so many bytes; without room for them the two are not compared."""
        if self._over:
            return False
        if not self._sink.hold(size):
            self.give_up(NO_ROOM)
            return False
        self._held += size
        return True

    def came(self, answer: Answer, seconds: float, version: int, *, shadow: bool) -> None:
        """One answer is whole. The second one of the two ends this."""
        if self._over:
            return
        self._there[shadow] = answer, seconds, version
        if len(self._there) < 2:
            return
        (primary, primary_s, primary_version), (other, shadow_s, shadow_version) = (
            self._there[side] for side in (False, True)
        )
        before, request = self._sides, self._request
        if before.noise:
            if primary_version != shadow_version:
                self.give_up(NO_ANSWER)  # it is being replaced, and both sides should be of one code
                return
            shadow_version = before.shadow_version
        versions = primary_version or before.primary_version, shadow_version or before.shadow_version
        sides = Sides(before.primary, *versions, before.noise)
        self._end()
        route, pickled = _route(request, self._route), request.codec != CODEC_HTTP
        self._sink.compare(
            Pair(
                self._number, sides, route, request.request_id, pickled, primary, other, primary_s, shadow_s
            )
        )  # fmt: skip

    def _end(self) -> None:
        self._over = True
        self._sink.release(self._held)
        self._held = 0
        self._there.clear()

    def _how(self, call: Call) -> tuple[float, int]:
        """How long a call has been with its replica, in seconds, and the version of the code there."""
        # A call that was sent at once has the loop's time of then, which may be a millisecond old, or an iteration.
        seconds = max(0.0, clock() - max(self._began, call.sent_at)) if call.sent_at else 0.0
        return seconds, call.remote.version if call.remote is not None else 0


class Heard:
    """Stands in for the future of a call: passes its outcome on, and tells a pairing."""

    __slots__ = ("_call", "_future", "_pairing")

    def __init__(self, call: Call, pairing: Pairing, future: CallFuture) -> None:
        self._call = call
        self._future = future
        self._pairing = pairing

    def done(self) -> bool:
        return self._future.done()

    def cancel(self) -> object:
        self._pairing.give_up(NO_ANSWER)
        return self._future.cancel()

    def set_result(self, reply: Reply) -> None:
        if reply.stream is not None:  # before anybody reads it
            self._pairing.answered(self._call, reply, shadow=False)
            self._future.set_result(reply)
        else:
            self._future.set_result(reply)
            self._pairing.answered(self._call, reply, shadow=False)

    def set_exception(self, error: BaseException) -> None:
        self._future.set_exception(error)
        self._pairing.failed(self._call, error, shadow=False)


class _Gathering:
    """Gathers the chunks of a streamed answer, beside whoever reads it."""

    __slots__ = ("_chunks", "_pairing", "_reply", "_seconds", "_shadow", "_size", "_version")

    def __init__(self, pairing: Pairing, reply: Reply, seconds: float, version: int, *, shadow: bool) -> None:
        self._pairing = pairing
        self._reply = Reply(reply.status, reply.headers, b"")
        self._seconds = seconds
        self._version = version
        self._shadow = shadow
        self._chunks: list[bytes] = []
        self._size = 0

    def chunk(self, chunk: Body) -> None:
        self._size += len(chunk)
        if self._size > MAX_ANSWER:
            self._chunks.clear()
            self._pairing.give_up(TOO_LARGE)
        elif self._pairing.take(len(chunk)):
            self._chunks.append(bytes(chunk))

    def ended(self, error: Exception | None) -> None:
        text = type(error).__name__ if error is not None else ""
        answer = Answer(self._reply.status, _content_type(self._reply), b"".join(self._chunks), text)
        self._pairing.came(answer, self._seconds, self._version, shadow=self._shadow)

    def closed(self) -> None:
        self._pairing.give_up(NO_ANSWER)


def status_of(error: BaseException) -> int:
    """The status with which HTTP clients are answered that a call has failed in this way; 0 where the failure says
    nothing about a backend."""
    if isinstance(error, DeadlineExceededError):
        return 504 if error.started else 503
    if isinstance(error, ReplicaDiedError):
        return 502
    if isinstance(error, CallRejectedError):
        return 400
    if isinstance(error, (BackpressureError, asyncio.CancelledError)):
        return 0
    if isinstance(error, (UserCodeError, RemoteError)) or not isinstance(error, ServeException):
        return 500
    return 0


def newest_version(versions: list[int]) -> int:
    """The version of the code that a backend's replicas run, or are about to run; 0 without replicas."""
    return max(versions, default=0)


def _content_type(reply: Reply) -> str:
    return next((value.decode("latin-1") for name, value in reply.headers if name == b"content-type"), "")


def _route(request: RequestHead, route: str | None) -> str:
    if request.codec == CODEC_HTTP and route is not None:
        return f"{request.http_method} {route}"
    return f"handle.{request.method_name}" if request.method_name else "handle"
