"""The handshake: both ends prove that they hold the same key before any other frame is decoded. No I/O.

Dialer and acceptor each send a nonce. Each proves its key by an HMAC-SHA256 over both nonces, the role that the dialer
claims, the instance, the protocol version, and which end it is. So a replayed or reflected hello proves nothing.

    dialer   -> acceptor   Opening(version, instance, role, identity, nonce)
    acceptor -> dialer     Challenge(nonce, proof)
    dialer   -> acceptor   Proof(proof)          from here on the dialer may send frames

The acceptor trusts a dialer only after its proof; until then a frame over 256 bytes is an error.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from pointsman.wire.encoding import encode_frame
from pointsman.wire.frames import PROTOCOL_VERSION, Frame, Kind, WireError
from pointsman.wire.messages import Message, pack, unpack

HELLO_TIMEOUT_S = 2.0
NONCE_SIZE = 32

ROLE_OPERATOR = "operator"
"""May change the instance: the driver that started it, the command line, ``connect``."""
ROLE_GRANT = "grant"
"""User code in a replica that uses a client or a handle."""
ROLE_CONSOLE = "console"
"""The page to look at and steer by: it reads, and changes what the token of its user allows."""
ROLE_INGRESS = "ingress"
ROLE_REPLICA = "replica"
ROLE_ROUTER = "router"
"""Sends calls to a replica."""


class Opening(Message, frozen=True):
    version: int
    instance: str
    role: str
    identity: str
    nonce: bytes


class Challenge(Message, frozen=True):
    nonce: bytes
    proof: bytes


class Proof(Message, frozen=True):
    proof: bytes


def derive_key(master: bytes, role: str, identity: str = "") -> bytes:
    """The key of a role, or with ``identity`` of one process in that role. ``master`` cannot be computed from it."""
    return hmac.digest(master, _framed(b"pointsman key", role.encode(), identity.encode()), hashlib.sha256)


def _framed(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _proof(key: bytes, end: str, opening: Opening, challenge_nonce: bytes) -> bytes:
    text = _framed(
        b"pointsman hello",
        end.encode(),
        str(opening.version).encode(),
        opening.instance.encode(),
        opening.role.encode(),
        opening.identity.encode(),
        opening.nonce,
        challenge_nonce,
    )
    return hmac.digest(key, text, hashlib.sha256)


class Dialer:
    """The connecting end. Send :meth:`first`; then give each received frame to :meth:`receive` until ``done``."""

    def __init__(self, *, instance: str, role: str, identity: str, key: bytes, nonce: bytes) -> None:
        if not key:
            raise WireError("refusing to connect with an empty key")
        self._key = key
        self._opening = Opening(PROTOCOL_VERSION, instance, role, identity, nonce)
        self.done = False

    def first(self) -> bytes:
        return encode_frame(Kind.HELLO, 0, pack(self._opening))

    def receive(self, frame: Frame) -> bytes:
        """Check the acceptor's challenge and return the bytes that answer it.

        Raises:
            WireError: the acceptor does not hold the key, or sent an unexpected frame.
        """
        if frame.kind != Kind.HELLO or frame.body or self.done:
            raise WireError("expected a hello")
        challenge = unpack(frame.head, Challenge)
        wanted = _proof(self._key, "acceptor", self._opening, challenge.nonce)
        if len(challenge.nonce) != NONCE_SIZE or not hmac.compare_digest(challenge.proof, wanted):
            raise WireError("the other end does not hold this instance's key")
        self.done = True
        proof = _proof(self._key, "dialer", self._opening, challenge.nonce)
        return encode_frame(Kind.HELLO, 0, pack(Proof(proof)))


class Acceptor:
    """The listening end.

    Args:
        instance: only dialers of the same instance are accepted.
        key_for: returns the key of a role and identity; None if such a dialer is not accepted.
        nonce: 32 random bytes, new for each connection.
    """

    def __init__(self, *, instance: str, key_for: Callable[[str, str], bytes | None], nonce: bytes) -> None:
        self._instance = instance
        self._key_for = key_for
        self._nonce = nonce
        self._key = b""
        self._opening: Opening | None = None
        self.done = False

    @property
    def role(self) -> str:
        """The dialer's role; proven once ``done``."""
        return self._opening.role if self._opening else ""

    @property
    def identity(self) -> str:
        return self._opening.identity if self._opening else ""

    def receive(self, frame: Frame) -> bytes:
        """Process a hello frame and return the bytes of the answer (empty after the last one).

        Raises:
            WireError: wrong version or instance, role not accepted, wrong proof.
        """
        if frame.kind != Kind.HELLO or frame.body or self.done:
            raise WireError("expected a hello")
        if self._opening is None:
            return self._challenge(unpack(frame.head, Opening))
        proof = unpack(frame.head, Proof).proof
        if not hmac.compare_digest(proof, _proof(self._key, "dialer", self._opening, self._nonce)):
            raise WireError("the dialer does not hold the key of its role")
        self.done = True
        return b""

    def _challenge(self, opening: Opening) -> bytes:
        if opening.version != PROTOCOL_VERSION:
            raise WireError(f"peer speaks wire version {opening.version}, this is version {PROTOCOL_VERSION}")
        if opening.instance != self._instance or len(opening.nonce) != NONCE_SIZE:
            raise WireError("hello is not for this instance")
        key = self._key_for(opening.role, opening.identity)
        if not key:
            raise WireError(f"role {opening.role!r} is not welcome here")
        self._key = key
        self._opening = opening
        answer = Challenge(self._nonce, _proof(key, "acceptor", opening, self._nonce))
        return encode_frame(Kind.HELLO, 0, pack(answer))
