"""What a router's process tells the process beside it that compares answers (decision 0080): messages one behind the
other, each with its length before it."""

from __future__ import annotations

from struct import Struct

import msgspec

from pointsman.comparing.answers import Answer
from pointsman.model import Comparison

MAX_ANSWER = 1024 * 1024
"""Bytes of an answer that is compared."""
MAX_WAITING = 64 * 1024 * 1024
"""Bytes of answers that one process holds until they are compared."""
DROPPED = "dropped"
"""The copy was not sent, since too many were under way."""
SAME_BACKEND, NO_ANSWER, NOT_RUN = "same_backend", "no_answer", "not_run"
"""Why a pair has not come about: the shadow's backend has answered the user; nobody waited for an answer, or Pointsman
has none; the copy found no free replica in time."""

_LENGTH = Struct("<I")


class Sides(msgspec.Struct, frozen=True, array_like=True):
    """Whose answers are compared, with the versions of their code; 0 where that is not known.

    Attributes:
        noise: whether both are of the backend ``primary``, in one version. The shadow's version is the newest then.
    """

    primary: str
    primary_version: int
    shadow_version: int
    noise: bool = False


class Began(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A comparison that later messages mean by its ``number``."""

    number: int
    endpoint: str
    backend: str
    comparison: Comparison


class Pair(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The two answers of a call.

    Attributes:
        number: of the comparison.
        route: method and route, or ``handle``.
        pickled: whether both bodies are pickles.
        primary_s, shadow_s: from when the call was sent to a replica until the answer, or its beginning, had come.
    """

    number: int
    sides: Sides
    route: str
    request_id: str
    pickled: bool
    primary: Answer
    shadow: Answer
    primary_s: float
    shadow_s: float


class Missed(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """So many copied calls of a comparison are not compared, for this reason."""

    number: int
    sides: Sides
    reason: str
    count: int


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """This comparison is over."""

    number: int


Message = Began | Pair | Missed | Ended
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def packed(message: Message) -> bytes:
    """The bytes of a message, with their length."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Makes messages of bytes as they come."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are whole with these bytes.

        Raises:
            msgspec.DecodeError: they are no messages.
        """
        buffer, at, found = self._buffer, 0, []
        buffer += data
        while len(buffer) - at >= _LENGTH.size:
            end = at + _LENGTH.size + _LENGTH.unpack_from(buffer, at)[0]
            if end > len(buffer):
                break
            found.append(_decoder.decode(bytes(buffer[at + _LENGTH.size : end])))
            at = end
        del buffer[:at]
        return found
