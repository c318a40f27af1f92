"""engine.local.output: what the supervisor tells a controller that does not read yet."""

from __future__ import annotations

import os
import socket

from pointsman.engine.local.output import Outbox
from pointsman.wire.encoding import FrameDecoder, encode_frame
from pointsman.wire.frames import Frame, Kind


def test_a_controller_that_reads_late_is_told_everything() -> None:
    """A new controller learns of every replica, though what is said of them does not fit the socket's buffer (FT1)."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        outbox = Outbox(ours)
        notes = os.urandom(5_000_000)
        outbox.send(encode_frame(Kind.EVENT, 0, notes))
        outbox.send(encode_frame(Kind.EVENT, 0, b"later"))
        assert outbox.full
        decoder, frames = FrameDecoder(), []
        while len(frames) < 2:
            frames += decoder.feed(theirs.recv(1 << 20))
            outbox.flush()
        assert frames == [Frame(Kind.EVENT, 0, notes), Frame(Kind.EVENT, 0, b"later")]
        assert not outbox.full


def test_a_controller_that_is_gone_holds_nobody_up() -> None:
    """The supervisor goes on, and tells the next one (F8)."""
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        Outbox(ours).send(b"x" * 1_000_000)
