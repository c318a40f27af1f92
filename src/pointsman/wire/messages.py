"""Messages: the heads of frames. Schemas and their codecs; no I/O.

Heads are msgpack arrays that are checked against the class: a field that a newer peer has added at the end is ignored,
a value of another type is an error. Decoding runs no code.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from pointsman.incoming import RequestHead
from pointsman.limits import cut
from pointsman.model import (
    Origin,
    Reason,
    ReplicaConfig,
    TargetTraits,
)
from pointsman.wire.frames import Body, WireError

T = TypeVar("T")


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Base of all heads."""


# --- commands ---------------------------------------------------------------------------------------------------


class Warrant(Message, frozen=True):
    """For whom a console sends a command, and for which state of what that changes.

    Attributes:
        token: of the user; empty for what needs none.
        if_version: the version of the object that the user has seen; None for any.
    """

    token: str = ""
    if_version: int | None = None

    def __repr__(self) -> str:
        return f"Warrant(if_version={self.if_version})"


class CommandHead(Message, frozen=True):
    """Head of a COMMAND frame. The body is the packed command, ``size`` bytes, then the code blob if there is one.

    Attributes:
        warrant: of a console's user; None from all others.
    """

    size: int
    warrant: Warrant | None = None


class Command(msgspec.Struct, frozen=True, tag_field="command"):
    """Base of the commands. A command that is delivered again with the same ``id`` is executed only once."""

    id: str


class Signed(Command, frozen=True, kw_only=True):
    """Base of the commands that change the state, which the history records. ``by`` names the sender, for people."""

    by: str = ""


# --- calls ------------------------------------------------------------------------------------------------------


class CallHead(Message, frozen=True):
    """A call that is sent to a replica.

    Attributes:
        budget_ms: time left until the deadline when the call was sent.
        shadow: whether it mirrors another call; mirrored calls yield to all others.
        timed: whether the reply is to report how long the call waited and ran.
    """

    request: RequestHead
    budget_ms: int
    shadow: bool = False
    timed: bool = False


class ReplyHead(Message, frozen=True):
    """An answer. With ``stream`` the body is empty, and CHUNK frames follow until END or FAILURE.

    Attributes:
        load: calls in the replica.
        waited_us: from the call's arrival until user code was called; 0 unless the call is timed.
        ran_us: from then until this answer, or the beginning of its stream.
        run_us: what a sync call takes in this replica, as :class:`~pointsman.policy.balance.RunTime` has it; 0 while it
            is not known.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    load: int
    stream: bool = False
    waited_us: int = 0
    ran_us: int = 0
    run_us: int = 0


class FailureHead(Message, frozen=True):
    """Why there is no answer. The frame's body may hold the pickled exception of user code; with the reason ``invalid``
    it is JSON that says what does not fit.

    Made by :func:`failure`, which cuts the texts to the limit.

    Attributes:
        error: class name of the exception.
        body_of: with the reason ``bad_body``, id of the request with that body, if it was passed on by a handle.
        run_us: as in a reply.
    """

    reason: Reason
    error: str
    text: str
    traceback: str = ""
    load: int = 0
    body_of: str = ""
    run_us: int = 0


def failure(reason: Reason, error: str, text: str, traceback: str = "", *, load: int = 0) -> FailureHead:
    """Make a failure whose texts are cut to the limit."""
    return FailureHead(reason, cut(error), cut(text), cut(traceback), load)


class RefuseHead(Message, frozen=True):
    """The replica did not start the call; a router places it elsewhere."""

    reason: Reason
    load: int


class FreeHead(Message, frozen=True):
    """The call that ran at the last recall has ended, or calls were never in each other's way. ``run_us`` as in a
    reply; ``idle`` when there was no call at all."""

    load: int
    run_us: int
    idle: bool = False


class CreditHead(Message, frozen=True):
    """So many more chunks may be sent; bytes where a call's data goes on behind it, or its answer says ``by_bytes``."""

    chunks: int


# --- calls of apps: data goes both ways -------------------------------------------------------------------------

WHOLE, BODY, SOCKET = 0, 1, 2
WINDOW = 1024 * 1024
"""Bytes that may be on their way to whoever reads a body or an answer of an app; then the writer waits."""
PART = 256 * 1024
"""Most bytes of one part of such data: other calls share the connection."""

TEXT, BINARY, MORE = 1, 2, 4
"""Flags in the one-byte head of a CHUNK that is a WebSocket's message, or a part of one that has more."""


class AppPart(Message, frozen=True):
    """What an app is told beside the request, and what follows behind the call.

    Attributes:
        root_path: the prefix under which the app is mounted.
        server: host and port that the client has connected to.
        follows: WHOLE: nothing. BODY: the body in CHUNK frames, until an END. SOCKET: the call opens a WebSocket,
            whose messages are CHUNK frames, until an END with an :class:`EndHead`; both ways, once it was accepted by
            a reply with status 101.
    """

    root_path: str = ""
    http_version: str = "1.1"
    scheme: str = "http"
    server: tuple[str, int | None] | None = None
    follows: int = WHOLE


class AppCallHead(CallHead, frozen=True):
    """A call of an app. A call of another backend is sent without the last field."""

    app: AppPart | None = None


class AppReplyHead(ReplyHead, frozen=True):
    """A streamed answer of an app, whose reader grants credit in bytes."""

    by_bytes: bool = False


class EndHead(Message, frozen=True):
    """How a stream has ended; an END without a head says no more than that it has.

    Attributes:
        code, reason: of a WebSocket's close.
        trailers: headers that come behind the data.
    """

    code: int = 0
    reason: str = ""
    trailers: list[tuple[bytes, bytes]] = []


# --- the life of a replica --------------------------------------------------------------------------------------


class Assignment(Message, frozen=True):
    """What a replica is to run. The frame's body is the code blob, ``code_size`` bytes, then the ``user_config`` if
    there is one; ``config`` does not have it.

    Attributes:
        start_reason: why this replica was started: ``initial``, ``scale``, ``failure`` or ``update``.
    """

    backend: str
    tag: str
    traits: TargetTraits
    config: ReplicaConfig
    config_version: int
    origin: Origin
    start_reason: str = "initial"
    code_size: int = 0


class ConfigureHead(Message, frozen=True):
    """New configuration for a running replica. The frame's body is the ``user_config`` if there is one; ``config`` does
    not have it.

    Attributes:
        timeout_s: how long running requests are waited for before ``reconfigure`` is called.
        others: whether other replicas take calls meanwhile.
    """

    config: ReplicaConfig
    config_version: int
    timeout_s: float
    others: bool = False


class DrainHead(Message, frozen=True):
    """Order to finish running calls and refuse others. ``timeout_s`` is the limit of WebSockets, None for none; a
    second order sets another one."""

    timeout_s: float | None


SERVED_S = 2.0
"""A replica counts as having served once it was ready for this long, even without a call."""


class Report(Message, frozen=True):
    """State of a replica, reported to the controller on each connect and after each executed order.

    For ``failed`` the frame's body may hold the pickled exception of user code.

    Attributes:
        state: ``fresh`` (waits for its assignment), ``starting``, ``ready``, ``failed``, ``draining`` or ``drained``.
        node, address, tcp: where it listens, as in a ``ReplicaRef``.
        served: whether it has answered a call, or was ready for ``SERVED_S``.
        patient: it drains without a limit.
    """

    number: int
    state: str
    config_version: int = 0
    reason: Reason | None = None
    error: str = ""
    text: str = ""
    traceback: str = ""
    node: str = ""
    address: str = ""
    tcp: str = ""
    served: bool = False
    patient: bool = False


class HealthAnswer(Message, frozen=True):
    """Health of a replica. Durations are in seconds.

    Attributes:
        load: calls in the replica, waiting or running.
        blocked_s: for how long the event loop has been blocked.
        patience_s: until the last of its calls is past its time; negative once it is, None without calls.
        overdue_s: for how long the call on the thread of sync code is past its time; 0 if it is not, or if it streams.
        check_failures: how many times in a row the user's ``check_health`` has failed.
        check_running_s: for how long the current ``check_health`` has been running.
        check_error, check_text, check_traceback: the last exception of ``check_health``.
        blocked_share: for which part of the last seconds the event loop was blocked; 0 where nothing called it.
        models: hashes of the ids of the models that it holds, the same in all replicas.
    """

    load: int
    blocked_s: float = 0.0
    patience_s: float | None = None
    overdue_s: float = 0.0
    check_failures: int = 0
    check_running_s: float = 0.0
    check_error: str = ""
    check_text: str = ""
    check_traceback: str = ""
    blocked_share: float = 0.0
    models: tuple[int, ...] = ()


# --- router's process and controller ----------------------------------------------------------------------------


class Subscribe(Message, frozen=True):
    """Sent by every process with a router. ``ingress`` marks HTTP servers, which changes wait for."""

    ingress: bool
    pid: int


class Confirm(Message, frozen=True):
    """The routing table of this version is in use; ``connected`` once its new replicas are reached, or were tried for
    long enough. See ``Kind.CONFIRM`` for the other direction."""

    version: int
    connected: bool = True


_encoder = msgspec.msgpack.Encoder()
pack = _encoder.encode
"""Encode a message."""

_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def unpack(data: Body, message: type[T]) -> T:
    """Decode a head.

    Raises:
        WireError: the bytes do not describe a ``message``.
    """
    decoder = _decoders.get(message)
    if decoder is None:
        decoder = _decoders[message] = msgspec.msgpack.Decoder(message)
    try:
        return decoder.decode(data)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"message is not a {getattr(message, '__name__', message)}: {error}") from None
