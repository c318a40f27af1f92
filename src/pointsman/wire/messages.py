"""Messages: what the heads of frames say. Schemas and their codecs; no I/O.

Heads are msgpack arrays checked against the class: a field that a newer peer added at the end is ignored, a value of
another type is an error. Nothing here can run code.
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


# --- calls ------------------------------------------------------------------------------------------------------


class CallHead(Message, frozen=True):
    """A call on its way to a replica.

    Attributes:
        budget_ms: time left until the deadline when the call was sent.
        shadow: whether it mirrors another call; it yields to all calls that do not.
        timed: whether the caller wants to know where the time went.
    """

    request: RequestHead
    budget_ms: int
    shadow: bool = False
    timed: bool = False


class ReplyHead(Message, frozen=True):
    """An answer. With ``stream`` the body is empty and CHUNK frames follow until END or FAILURE."""

    status: int
    headers: list[tuple[bytes, bytes]]
    load: int
    stream: bool = False
    waited_us: int = 0
    """From the call's arrival until user code was given it; 0 unless the call is timed."""
    ran_us: int = 0
    """From then until this answer, or the beginning of a stream."""


class FailureHead(Message, frozen=True):
    """Why there is no answer. The frame's body may hold the pickled exception of user code. Made by :func:`failure`,
    which sees to it that it fits."""

    reason: Reason
    error: str
    """Class name of the exception."""
    text: str
    traceback: str = ""
    load: int = 0
    body_of: str = ""
    """With the reason ``bad_body``: id of the request whose body it is, where that was passed on as it came."""


def failure(reason: Reason, error: str, text: str, traceback: str = "", *, load: int = 0) -> FailureHead:
    """A failure to be sent: its texts are cut to what may be."""
    return FailureHead(reason, cut(error), cut(text), cut(traceback), load)


class RefuseHead(Message, frozen=True):
    """The replica did not start the call; a router places it elsewhere."""

    reason: Reason
    load: int


class CreditHead(Message, frozen=True):
    chunks: int


# --- the life of a replica --------------------------------------------------------------------------------------


class Assignment(Message, frozen=True):
    """What a replica is to run. The frame's body is the stored code blob, ``code_size`` bytes, and then the
    ``user_config`` that ``config`` lacks, if there is one."""

    backend: str
    tag: str
    traits: TargetTraits
    config: ReplicaConfig
    config_version: int
    origin: Origin
    start_reason: str = "initial"
    """``initial``, ``scale``, ``failure`` or ``update``: why this replica was started."""
    code_size: int = 0


class ConfigureHead(Message, frozen=True):
    """New configuration for a running replica. The frame's body is the ``user_config`` that ``config`` lacks, if there
    is one. ``timeout_s`` bounds the wait for what runs before ``reconfigure``; ``others`` says whether other replicas
    take calls meanwhile."""

    config: ReplicaConfig
    config_version: int
    timeout_s: float
    others: bool = False


class DrainHead(Message, frozen=True):
    timeout_s: float


SERVED_S = 2.0
"""A replica that was ready for this long has served, even if nobody called it."""


class Report(Message, frozen=True):
    """A replica tells the controller how it is: on connecting, and after each thing it was told to do.

    ``state`` is ``fresh`` (wants its assignment), ``starting``, ``ready``, ``failed``, ``draining`` or ``drained``. For
    ``failed`` the frame's body may hold the pickled exception of user code. ``node``, ``address`` and ``tcp`` say where
    it listens, as in a ``ReplicaRef``. ``served`` once it has answered a call, or was ready
    for ``SERVED_S``.
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


class HealthAnswer(Message, frozen=True):
    """How a replica is. Durations are in seconds.

    Attributes:
        load: calls in the replica, waiting or running.
        blocked_s: for how long the event loop has not turned.
        patience_s: until the last call in the replica is beyond the time that callers wait for it; negative once it is,
            None when there is no call.
        overdue_s: for how long the call that runs on the thread of sync code has been beyond that time; 0 when it is
            not, or when it streams.
        check_failures: times in a row that the user's ``check_health`` has failed.
        check_running_s: for how long the present call of it has run.
        check_error, check_text, check_traceback: what it raised last.
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


# --- router's process and controller ----------------------------------------------------------------------------


class Subscribe(Message, frozen=True):
    """Sent by every process that has a router. ``ingress`` is true for HTTP processes: ``start`` waits for them."""

    ingress: bool
    pid: int


class Confirm(Message, frozen=True):
    version: int


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
