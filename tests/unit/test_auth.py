"""wire.auth: only two ends that hold the same key for the same instance, version and role come together."""

from __future__ import annotations

import hmac

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pointsman.wire import auth, frames, messages
from pointsman.wire.auth import NONCE_SIZE, ROLE_GRANT, ROLE_OPERATOR, ROLE_REPLICA, Acceptor, Dialer, derive_key
from pointsman.wire.encoding import HEADER_SIZE, FrameDecoder, encode_frame
from pointsman.wire.frames import MAX_PAYLOAD_BEFORE_HELLO, Frame, Kind, WireError
from tests.properties import examples

MASTER = b"m" * 32
OTHER_MASTER = b"o" * 32


def nonce(number: int) -> bytes:
    return bytes([number]) * NONCE_SIZE


def key_for(role: str, identity: str) -> bytes | None:
    return derive_key(MASTER, role, identity) if role in (ROLE_OPERATOR, ROLE_REPLICA) else None


def dialer(
    *,
    master: bytes = MASTER,
    instance: str = "one",
    role: str = ROLE_REPLICA,
    identity: str = "7",
    number: int = 1,
) -> Dialer:
    key = derive_key(master, role, identity)
    return Dialer(instance=instance, role=role, identity=identity, key=key, nonce=nonce(number))


def acceptor(number: int = 2) -> Acceptor:
    return Acceptor(instance="one", key_for=key_for, nonce=nonce(number))


def only_frame(data: bytes) -> Frame:
    """The frame in some bytes, received under the limit that holds before the hello."""
    (frame,) = FrameDecoder(max_payload=MAX_PAYLOAD_BEFORE_HELLO).feed(data)
    return frame


def hello(fields: list[object]) -> Frame:
    """A hello with a head of the sender's own making."""
    return only_frame(encode_frame(Kind.HELLO, 0, msgspec.msgpack.encode(fields)))


@pytest.mark.parametrize(("role", "identity"), [(ROLE_OPERATOR, ""), (ROLE_REPLICA, "7"), (ROLE_REPLICA, "é" * 8)])
def test_two_ends_with_the_same_key_meet(role: str, identity: str) -> None:
    """A process that holds its role's key is let in, and the listener knows who it is (S6)."""
    dial, accept = dialer(role=role, identity=identity), acceptor()
    assert (accept.role, accept.identity) == ("", "")
    challenge = accept.receive(only_frame(dial.first()))
    assert not accept.done
    proof = dial.receive(only_frame(challenge))
    assert dial.done
    assert not accept.done
    assert accept.receive(only_frame(proof)) == b""
    assert accept.done
    assert (accept.role, accept.identity) == (role, identity)


def test_listener_with_a_wrong_key_is_found_out() -> None:
    """A process that reached an impostor's socket notices before it sends anything (S6)."""
    impostor = Acceptor(instance="one", key_for=lambda *_: derive_key(OTHER_MASTER, ROLE_REPLICA, "7"), nonce=nonce(2))
    dial = dialer()
    challenge = impostor.receive(only_frame(dial.first()))
    with pytest.raises(WireError, match="does not hold this instance's key"):
        dial.receive(only_frame(challenge))
    assert not dial.done


def test_dialer_with_a_wrong_key_is_kept_out() -> None:
    """A stranger that answers the challenge with another key is refused at its proof (S6)."""
    accept = acceptor()
    stranger = dialer(master=OTHER_MASTER)
    accept.receive(only_frame(stranger.first()))
    forged = hmac.digest(derive_key(OTHER_MASTER, ROLE_REPLICA, "7"), b"anything", "sha256")
    with pytest.raises(WireError, match="does not hold the key of its role"):
        accept.receive(hello([forged]))
    assert not accept.done


@pytest.mark.parametrize(("role", "identity"), [(ROLE_OPERATOR, ""), (ROLE_REPLICA, "8"), (ROLE_GRANT, "7")])
def test_a_key_is_good_for_one_role_and_process(role: str, identity: str) -> None:
    """A replica cannot pass as the operator, as user code, or as another replica, with the key it was given (S2)."""
    own = derive_key(MASTER, ROLE_REPLICA, "7")
    accept = Acceptor(instance="one", key_for=lambda r, i: derive_key(MASTER, r, i), nonce=nonce(2))
    liar = Dialer(instance="one", role=role, identity=identity, key=own, nonce=nonce(1))
    challenge = accept.receive(only_frame(liar.first()))
    with pytest.raises(WireError, match="does not hold this instance's key"):
        liar.receive(only_frame(challenge))
    with pytest.raises(WireError, match="does not hold the key of its role"):
        accept.receive(hello([hmac.digest(own, b"anything", "sha256")]))


def test_the_proof_covers_where_one_field_ends() -> None:
    """Moving text from one field of the hello to the next changes the proof: no role is spelled two ways (S2)."""
    key = b"k" * 32
    honest = Dialer(instance="one", role="replica|x", identity="7", key=key, nonce=nonce(1))
    accept = Acceptor(instance="one", key_for=lambda *_: key, nonce=nonce(2))
    opening = msgspec.msgpack.decode(only_frame(honest.first()).head)
    assert opening[2:4] == ["replica|x", "7"]
    challenge = accept.receive(hello([*opening[:2], "replica", "x|7", opening[4]]))
    with pytest.raises(WireError, match="key"):
        honest.receive(only_frame(challenge))


@examples(100)
@given(
    one=st.tuples(st.text("ab|", max_size=4), st.text("ab|", max_size=4)),
    other=st.tuples(st.text("ab|", max_size=4), st.text("ab|", max_size=4)),
)
@example(one=("a", "|b"), other=("a|", "b"))
def test_each_role_and_process_has_its_own_key(one: tuple[str, str], other: tuple[str, str]) -> None:
    """Two processes share a key only when role and identity are the same, however their names are spelled (S2)."""
    assert (derive_key(MASTER, *one) == derive_key(MASTER, *other)) == (one == other)


def test_wrong_instance_is_refused() -> None:
    """A process of another instance that found the socket is told that it is in the wrong place (S6)."""
    with pytest.raises(WireError, match="not for this instance"):
        acceptor().receive(only_frame(dialer(instance="two").first()))


@pytest.mark.parametrize("version", [0, 1, 2**40])
def test_wrong_version_is_refused(version: int) -> None:
    """A peer of another release is refused with both versions named (S6)."""
    opening = [version, "one", ROLE_REPLICA, "7", nonce(1)]
    with pytest.raises(WireError, match=f"version {version}, this is version {frames.PROTOCOL_VERSION}"):
        acceptor().receive(hello(opening))


@pytest.mark.parametrize("role", [ROLE_GRANT, "", "root", "OPERATOR"])
def test_unwelcome_role_is_refused(role: str) -> None:
    """A role that this listener does not serve is refused by name, before any key is looked at (S2)."""
    with pytest.raises(WireError, match=f"role '{role}' is not welcome"):
        acceptor().receive(only_frame(dialer(role=role).first()))


@pytest.mark.parametrize("size", [0, NONCE_SIZE - 1, NONCE_SIZE + 1])
def test_short_and_long_nonces_are_refused(size: int) -> None:
    """A peer whose nonce is not 32 bytes is refused at either end (S6)."""
    with pytest.raises(WireError):
        acceptor().receive(hello([frames.PROTOCOL_VERSION, "one", ROLE_REPLICA, "7", b"n" * size]))
    dial = dialer()
    weak = Acceptor(instance="one", key_for=key_for, nonce=b"n" * size)
    with pytest.raises(WireError):
        dial.receive(only_frame(weak.receive(only_frame(dial.first()))))


def test_empty_keys_are_refused() -> None:
    """A process that was handed no key connects to nobody, and a listener without a key welcomes nobody (S10)."""
    with pytest.raises(WireError, match="empty key"):
        Dialer(instance="one", role=ROLE_REPLICA, identity="7", key=b"", nonce=nonce(1))
    keyless = Acceptor(instance="one", key_for=lambda *_: b"", nonce=nonce(2))
    with pytest.raises(WireError, match="not welcome"):
        keyless.receive(only_frame(dialer().first()))


def test_replayed_hello_is_refused() -> None:
    """Someone who recorded a whole handshake cannot use it again: the listener's nonce is new each time (S6)."""
    dial, accept = dialer(), acceptor(number=2)
    opening = dial.first()
    proof = dial.receive(only_frame(accept.receive(only_frame(opening))))
    accept.receive(only_frame(proof))
    later = acceptor(number=3)
    later.receive(only_frame(opening))
    with pytest.raises(WireError, match="does not hold the key"):
        later.receive(only_frame(proof))


def test_replayed_challenge_is_refused() -> None:
    """A recorded challenge does not convince a new connection: the dialer's nonce is new each time (S6)."""
    recorded = acceptor().receive(only_frame(dialer(number=1).first()))
    with pytest.raises(WireError, match="does not hold this instance's key"):
        dialer(number=4).receive(only_frame(recorded))


def test_reflected_proof_is_refused() -> None:
    """Sending an end's own words back to it proves nothing, whichever end it is (S6)."""
    dial, accept = dialer(), acceptor()
    challenge = accept.receive(only_frame(dial.first()))
    _, acceptors_proof = msgspec.msgpack.decode(only_frame(challenge).head)
    with pytest.raises(WireError, match="does not hold the key of its role"):
        accept.receive(hello([acceptors_proof]))

    dial = dialer()
    with pytest.raises(WireError):
        dial.receive(only_frame(dial.first()))
    # The man in the middle has the honest listener sign the dialer's own nonce, and hands that over as a proof.
    mirror = Acceptor(instance="one", key_for=key_for, nonce=nonce(1))
    _, mirrored = msgspec.msgpack.decode(only_frame(mirror.receive(only_frame(dialer(number=2).first()))).head)
    victim = dialer(number=1)
    with pytest.raises(WireError, match="does not hold this instance's key"):
        victim.receive(hello([nonce(2), mirrored]))


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.HELLO])
def test_nothing_but_hellos_before_the_hello(kind: Kind) -> None:
    """A peer that speaks before it has introduced itself is cut off, at either end (S6)."""
    for end in (acceptor(), dialer()):
        with pytest.raises(WireError, match="expected a hello"):
            end.receive(Frame(kind, 0))


def test_hellos_carry_no_body_and_come_once() -> None:
    """A hello with a body, or one after the handshake, is refused (S6)."""
    dial, accept = dialer(), acceptor()
    opening = only_frame(dial.first())
    with pytest.raises(WireError, match="expected a hello"):
        acceptor().receive(msgspec.structs.replace(opening, body=b"x"))
    challenge = only_frame(accept.receive(opening))
    proof = only_frame(dial.receive(challenge))
    accept.receive(proof)
    for end, frame in ((dial, challenge), (accept, proof), (accept, opening)):
        with pytest.raises(WireError, match="expected a hello"):
            end.receive(frame)


@examples(150)
@given(step=st.integers(0, 2), position=st.integers(0, 10_000), mask=st.integers(1, 255))
def test_tampering_is_noticed(step: int, position: int, mask: int) -> None:
    """Change any byte of any hello on its way, and the two ends never come together (S6)."""
    dial, accept = dialer(), acceptor()

    def carry(data: bytes, number: int) -> Frame:
        if number == step:
            damaged = bytearray(data)
            # The call id means nothing in a hello, so damage to it may pass.
            places = [at for at in range(len(data)) if not 5 <= at < 13]
            damaged[places[position % len(places)]] ^= mask
            data = bytes(damaged)
        got = FrameDecoder(max_payload=MAX_PAYLOAD_BEFORE_HELLO).feed(data)
        if len(got) != 1:
            raise WireError("the hello never became complete, and its time ran out")
        return got[0]

    with pytest.raises(WireError):  # noqa: PT012 - which of the steps notices depends on the byte
        challenge = accept.receive(carry(dial.first(), 0))
        proof = dial.receive(carry(challenge, 1))
        accept.receive(carry(proof, 2))
    assert not accept.done


@examples(150)
@given(heads=st.lists(st.binary(max_size=200), min_size=1, max_size=3))
def test_garbage_is_refused(heads: list[bytes]) -> None:
    """Random bytes in place of a hello are refused with a WireError and nothing else, at either end (F29, S6)."""
    for end in (acceptor(), dialer()):
        for head in heads:
            with pytest.raises(WireError):
                end.receive(Frame(Kind.HELLO, 0, head))
        assert not end.done


@pytest.mark.parametrize("size", [MAX_PAYLOAD_BEFORE_HELLO - 1, MAX_PAYLOAD_BEFORE_HELLO, MAX_PAYLOAD_BEFORE_HELLO + 1])
def test_strangers_may_send_little(size: int) -> None:
    """Before its hello a peer may send frames of up to 256 bytes, and a longer one is refused at its header (S15)."""
    decoder = FrameDecoder(max_payload=MAX_PAYLOAD_BEFORE_HELLO)
    data = encode_frame(Kind.HELLO, 0, b"h" * size)
    if size <= MAX_PAYLOAD_BEFORE_HELLO:
        assert len(decoder.feed(data)) == 1
    else:
        with pytest.raises(WireError, match="over the limit of 256"):
            decoder.feed(data[:HEADER_SIZE])


def test_the_longest_honest_hello_fits() -> None:
    """Our own hellos stay below the limit for strangers, with the longest identity that we hand out (S15)."""
    dial, accept = dialer(identity=str(2**63)), acceptor()
    challenge = accept.receive(only_frame(dial.first()))
    assert accept.receive(only_frame(dial.receive(only_frame(challenge)))) == b""


@pytest.mark.parametrize("module", [auth, frames, messages])
def test_no_decoder_that_runs_code_is_near(module: object) -> None:
    """What reads the bytes of strangers has no unpickler, and no eval, within reach (G10, S6)."""
    names = set(vars(module))
    assert not names & {"pickle", "cloudpickle", "marshal", "shelve", "yaml", "importlib"}


def test_pickles_are_just_garbage() -> None:
    """A stranger's pickle in place of a hello runs nothing (G10)."""
    ran = b"cbuiltins\nexec\n(S'raise SystemExit(99)'\ntR."
    with pytest.raises(WireError):
        acceptor().receive(Frame(Kind.HELLO, 0, ran))
