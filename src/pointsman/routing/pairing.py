"""Brings the two answers of a copied call together, and hands them to whoever compares them (decision 0080).

Only a call that is copied to a comparing shadow comes here. Its caller has its answer first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
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
from pointsman.routing.reply import Reply, StreamWatcher
from pointsman.wire.frames import Body
from pointsman.wire.pairs import MAX_ANSWER, NO_ANSWER, NOT_RUN, SAME_BACKEND, Pair, Sides

BESIDE = 1024
"""What an answer that waits takes beside its body, about: its head, and that of the request."""

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

    def forget(self, endpoint: str, backend: str) -> None:
        """This shadow is not compared any more. Pairs that are still on their way are not."""

    def compare(self, number: int, size: int, make: Callable[[], Pair]) -> None:
        """Have the answers of a comparison compared.

        Args:
            size: bytes of both.
            make: called once, makes the pair and releases its bytes. It may be called later, with others: then it takes
                a third of the time.
        """

    def missed(self, number: int, sides: Sides, reason: str) -> None:
        """Count a copied call that is not compared."""

    async def aclose(self) -> None:
        """The router has ended."""


class Compared:
    """A shadow of one endpoint in this process whose answers are compared.

    Args:
        sink: takes the pairs.
        subject: what is compared.
        route: of the endpoint; None without one.
        newest: gives the newest version of a backend's code, by its tag; 0 where it has no replica.

    Attributes:
        noise: probability of a second copy.
    """

    __slots__ = ("_backend", "_newest", "_number", "_route", "_sink", "noise")

    def __init__(self, sink: PairSink, subject: Subject, route: str | None, newest: Callable[[str], int]) -> None:
        self._sink = sink
        self._number = sink.number(subject)
        self._backend = subject.backend
        self._route = route
        self._newest = newest
        self.noise = subject.comparison.noise

    def why_not(self, call: Call) -> str:
        """Why the answers to a call that was just placed are not compared; empty if they are."""
        if call.backend == self._backend:
            return SAME_BACKEND
        return NO_ANSWER if call.is_over() else ""

    def sides(self, primary: str, primary_version: int, shadow_version: int, noise: bool) -> Sides:
        """Who has answered; in the newest version where that is not known."""
        return Sides(
            primary,
            primary_version or self._newest(primary),
            shadow_version or self._newest(self._backend),
            noise,
        )

    def missed(self, sides: Sides, reason: str) -> None:
        self._sink.missed(self._number, sides, reason)

    def hold(self, size: int) -> bool:
        return self._sink.hold(size)

    def release(self, size: int) -> None:
        self._sink.release(size)

    def hand_over(self, size: int, make: Callable[[], Pair]) -> None:
        self._sink.compare(self._number, size, make)

    def pair(self, sides: Sides, request: RequestHead, primary: _Came, shadow: _Came) -> Pair:
        """The two answers with all that is said of them."""
        if request.codec == CODEC_HTTP and self._route is not None:
            route = f"{request.http_method} {self._route}"
        else:
            route = f"handle.{request.method_name}" if request.method_name else "handle"
        pickled = request.codec != CODEC_HTTP
        return Pair(
            self._number, sides, route, request.request_id, pickled, primary.answer(), shadow.answer(),
            primary.seconds, shadow.seconds,
        )  # fmt: skip


class _Came(NamedTuple):
    """One of the two answers, how long it took, and the version of the code; ``error`` is empty if it is whole."""

    reply: Reply
    error: str
    seconds: float
    version: int

    def answer(self) -> Answer:
        return Answer(self.reply.status, _content_type(self.reply), bytes(self.reply.body), self.error)


class Pairing:
    """The two answers of one call, of which none has come yet.

    Args:
        compared: the shadow.
        call: was just placed.
        noise: whether the copy goes to the same backend.
    """

    # hot: passed by each copied call; what only some need is found when they do

    __slots__ = ("_began", "_compared", "_held", "_noise", "_over", "_primary", "_request", "_shadow", "_tag")

    def __init__(self, compared: Compared, call: Call, *, noise: bool = False) -> None:
        self._compared = compared
        self._tag = call.backend
        self._request = call.request
        self._noise = noise
        self._began = clock()
        self._primary: _Came | None = None
        self._shadow: _Came | None = None
        self._held = 0
        self._over = False

    def give_up(self, reason: str) -> None:
        """The two are not compared. Counts the first time only."""
        if not self._over:
            self._end()
            self._compared.missed(self._compared.sides(self._tag, 0, 0, self._noise), reason)

    def answered(self, call: Call | None, reply: Reply, *, shadow: bool) -> None:
        """One of the two calls has its answer, or the beginning of it."""
        if self._over:
            return
        seconds, version = self._how(call)
        if reply.stream is not None:
            if self.take(BESIDE):
                gathering = _Gathering(self, reply, seconds, version, shadow=shadow)
                before = reply.stream.watcher  # of another shadow, or of the second copy for noise
                reply.stream.watcher = gathering if before is None else _Both(before, gathering)
        elif len(reply.body) > MAX_ANSWER:
            self.give_up(TOO_LARGE)
        elif self.take(BESIDE + len(reply.body)):
            self.came(_Came(reply, "", seconds, version), shadow=shadow)

    def failed(self, call: Call | None, error: BaseException, *, shadow: bool) -> None:
        """One of the two calls has none."""
        if self._over:
            return
        status = status_of(error)
        if shadow and isinstance(error, DeadlineExceededError) and not error.started:
            self.give_up(NOT_RUN)  # copies wait behind users' calls, so this says nothing about the backend
        elif not status:
            self.give_up(NO_ANSWER)
        elif self.take(BESIDE):
            self.came(_Came(Reply(status, [], b""), type(error).__name__, *self._how(call)), shadow=shadow)

    def take(self, size: int) -> bool:
        """Hold so many bytes; without room for them the two are not compared."""
        if self._over:
            return False
        if not self._compared.hold(size):
            self.give_up(NO_ROOM)
            return False
        self._held += size
        return True

    def came(self, one: _Came, *, shadow: bool) -> None:
        """One answer is whole. The second one of the two ends this."""
        if self._over:
            return
        if shadow:
            self._shadow = one
        else:
            self._primary = one
        primary, other = self._primary, self._shadow
        if primary is None or other is None:
            return
        if self._noise and primary.version != other.version:
            self.give_up(NO_ANSWER)  # it is being replaced, and both sides should be of one code
            return
        self._over = True
        self._compared.hand_over(self._held, self._make)

    def _make(self) -> Pair:
        primary, shadow = self._primary, self._shadow
        assert primary is not None
        assert shadow is not None
        self._end()
        version = 0 if self._noise else shadow.version  # the shadow itself has not answered where it is noise
        sides = self._compared.sides(self._tag, primary.version, version, self._noise)
        return self._compared.pair(sides, self._request, primary, shadow)

    def _end(self) -> None:
        self._over = True
        if self._held:
            self._compared.release(self._held)
            self._held = 0
        self._primary = self._shadow = None

    def _how(self, call: Call | None) -> tuple[float, int]:
        """How long a call has been with its replica, in seconds, and the version of the code there."""
        if call is None:
            return 0.0, 0
        # A call that was sent at once has the loop's time of then, which may be a millisecond old, or an iteration.
        seconds = max(0.0, clock() - max(self._began, call.sent_at)) if call.sent_at else 0.0
        return seconds, call.remote.version if call.remote is not None else 0


class Heard:
    """Stands in for the future of a call: passes its outcome on, and tells a pairing."""

    # The call refers to this: no cycle may be left, which each request would leave to the garbage collector.

    __slots__ = ("_call", "_future", "_pairing")

    def __init__(self, call: Call, pairing: Pairing, future: CallFuture) -> None:
        self._call: Call | None = call
        self._future = future
        self._pairing = pairing

    def done(self) -> bool:
        return self._future.done()

    def cancel(self) -> object:
        self._call = None
        self._pairing.give_up(NO_ANSWER)
        return self._future.cancel()

    def set_result(self, reply: Reply) -> None:
        call, self._call = self._call, None
        if reply.stream is not None:  # before anybody reads it
            self._pairing.answered(call, reply, shadow=False)
            self._future.set_result(reply)
        else:
            self._future.set_result(reply)
            self._pairing.answered(call, reply, shadow=False)

    def set_exception(self, error: BaseException) -> None:
        call, self._call = self._call, None
        self._future.set_exception(error)
        self._pairing.failed(call, error, shadow=False)


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
        reply = Reply(self._reply.status, self._reply.headers, b"".join(self._chunks))
        self._pairing.came(_Came(reply, text, self._seconds, self._version), shadow=self._shadow)

    def closed(self) -> None:
        self._pairing.give_up(NO_ANSWER)


class _Both(NamedTuple):
    """Two that see one stream."""

    first: StreamWatcher
    second: StreamWatcher

    def chunk(self, chunk: Body) -> None:
        self.first.chunk(chunk)
        self.second.chunk(chunk)

    def ended(self, error: Exception | None) -> None:
        self.first.ended(error)
        self.second.ended(error)

    def closed(self) -> None:
        self.first.closed()
        self.second.closed()


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


def _content_type(reply: Reply) -> str:
    for name, value in reply.headers:
        if name == b"content-type":
            return value.decode("latin-1")
    return ""
