"""Frames, and their kinds. :mod:`wire.encoding` makes bytes of them.

A frame is a fixed header (length of the remainder, kind, call id, length of the head) and two byte strings: the *head*,
a msgpack message of ``wire.messages``, and the *body*, opaque bytes that no router reads.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeAlias

import msgspec

from pointsman.exceptions import ServeException

PROTOCOL_VERSION = 4
"""Sent in every handshake; processes of different versions refuse each other."""

MAX_PAYLOAD_BEFORE_HELLO = 256


class WireError(ServeException):
    """The peer sent bytes that violate the protocol. The connection is closed."""


class Kind(IntEnum):
    """Kind of a frame. The comments give sender and receiver."""

    HELLO = 1  # both ways, before anything else
    CALL = 2  # router -> replica
    REPLY = 3  # replica -> router; controller -> client, its body is the reply
    CHUNK = 4  # replica -> router and back, part of a stream; controller -> client, progress
    END = 5  # replica -> router and back, the stream is complete
    FAILURE = 6  # replica -> router; controller -> client
    CANCEL = 7  # router -> replica; client -> controller
    REFUSE = 8  # replica -> router: not started, place it elsewhere
    CREDIT = 9  # router -> replica and back: so much more may be sent
    CONFIGURE = 10  # controller -> replica
    DRAIN = 11  # controller -> replica
    HEALTH = 12  # controller -> health thread of a replica, and back
    REPORT = 13  # replica -> controller: who I am and how I am; controller -> supervisor: what runs
    COMMAND = 14  # client -> controller
    SUBSCRIBE = 15  # router's process -> controller; once more where a change does not fit its table
    TABLE = 16  # controller -> router's process: the whole table
    CONFIRM = 17  # router's process -> controller: this table is in use; and back: changes wait for it from now on
    LAUNCH = 18  # controller -> supervisor
    STOP = 19  # controller -> HTTP servers and replicas
    KILL = 20  # controller -> supervisor
    EVENT = 21  # supervisor -> controller
    SHUTDOWN = 22  # controller -> supervisor
    ASSIGN = 23  # controller -> replica: what to run
    TAKEN = 24  # controller -> client: the command has arrived
    RECALL = 25  # router -> replica: send back what has not begun, and say when you are free
    FREE = 26  # replica -> router: another call can begin now
    TABLE_CHANGE = 27  # controller -> router's process: what differs from the table before
    DEMAND = 28  # router's process -> controller: the calls of backends whose number of replicas follows them
    MODELS = 29  # replica -> router: the models that it holds; controller -> replica and back: the same with details


Body: TypeAlias = "bytes | bytearray | memoryview"

KINDS: dict[int, Kind] = {int(kind): kind for kind in Kind}


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One unit on the wire. ``call_id`` matches answers to calls; 0 if there is no call.

    A large body that was received in pieces is a bytearray or a writable memoryview.
    """

    kind: int
    call_id: int
    head: bytes = b""
    body: Body = b""
