"""limits: what is too large is refused where it is made, with its size and the limit; texts are cut."""

from __future__ import annotations

import mmap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.actor_options import parse_actor_options
from pointsman.arguments import check_route
from pointsman.config import HTTPOptions, backend, config_changes, pack_middlewares
from pointsman.exceptions import TooLargeError
from pointsman.limits import MAX_BODY, MAX_HEAD, MAX_PAYLOAD, MAX_TEXT, check_size, cut
from pointsman.usercode import packing as usercode
from pointsman.usercode.packing import pack_code
from pointsman.wire import failures
from pointsman.wire.encoding import LARGE_BODY, FrameDecoder, encode_frame, encode_parts
from pointsman.wire.failures import describe_failure
from pointsman.wire.frames import Kind
from pointsman.wire.messages import pack
from pointsman.wire.pickling import loads

MB = 1_000_000


@given(st.text(max_size=50))
def test_a_short_text_is_sent_as_it_is(text: str) -> None:
    """A failure's text arrives as it was raised."""
    assert cut(text) == text


@pytest.mark.parametrize("letter", ["x", "é", "漢", "😀", "\udcff"])
def test_a_long_text_is_cut_in_its_middle(letter: str) -> None:
    """Of a text of megabytes 64 KiB are sent: its beginning, its end, and how much is missing in between."""
    sent = cut(f"begin{letter * MB}end")
    assert len(sent.encode()) <= MAX_TEXT
    assert sent.startswith("begin")
    assert sent.endswith("end")
    size = len(letter.encode(errors="replace")) * MB + 8
    assert f" of {size} bytes are left out, over the limit of {MAX_TEXT} bytes" in sent
    assert cut(sent) == sent


@pytest.mark.parametrize("more", [0, 1])
def test_the_limit_of_a_text_counts_bytes(more: int) -> None:
    """Exactly 64 KiB are sent whole."""
    text = "é" * (MAX_TEXT // 2) + "x" * more
    assert (cut(text) == text) is (more == 0)


def test_a_failure_always_fits() -> None:
    """An exception of 9 MB, whose class has a name of 9 MB, is told of in a few kilobytes; itself goes along (F39)."""
    error = type("E" * 9 * MB, (ValueError,), {})("x" * 9 * MB)
    try:
        raise error
    except ValueError as raised:
        head, _ = describe_failure(raised, with_object=True)
    assert len(pack(head)) <= 3 * MAX_TEXT + 100
    assert head.traceback.startswith("Traceback (most recent call last)")
    assert "test_limits.py" in head.traceback
    head, pickled = describe_failure(ValueError("x" * 9 * MB), with_object=True)
    assert len(head.text) <= MAX_TEXT
    assert loads(pickled).args == ("x" * 9 * MB,)


def test_an_exception_that_is_too_large_is_told_of_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an exception that carries more than a message may, the caller gets the text (F39)."""
    monkeypatch.setattr(failures, "MAX_MESSAGE", 1000)
    head, pickled = describe_failure(ValueError("x" * 2000), with_object=True)
    assert (head.error, head.text, pickled) == ("ValueError", "x" * 2000, b"")


@pytest.mark.parametrize("encode", [encode_frame, encode_parts])
@pytest.mark.parametrize("body", [b"", b"b" * LARGE_BODY])
def test_a_head_that_no_receiver_takes_is_not_sent(encode: Any, body: bytes) -> None:
    """Whoever makes a frame with too large a head gets the error, and not everybody else on the connection."""
    data = encode(Kind.CALL, 1, b"h" * MAX_HEAD, body)
    data = data if isinstance(data, bytes) else b"".join(data)
    (frame,) = FrameDecoder().feed(data)
    assert (len(frame.head), frame.body) == (MAX_HEAD, body)
    with pytest.raises(TooLargeError, match=f"head of a CALL frame.* {MAX_HEAD + 1} bytes.* {MAX_HEAD} bytes"):
        encode(Kind.CALL, 1, b"h" * (MAX_HEAD + 1), body)


def test_a_body_that_no_receiver_takes_is_not_sent() -> None:
    """The same for all of it; the data of a call may be so large that it fits with any head."""
    with mmap.mmap(-1, MAX_PAYLOAD + 1) as memory, memoryview(memory) as view:  # never touched, so it takes no memory
        parts = encode_parts(Kind.REPLY, 1, b"", view[:MAX_PAYLOAD])
        assert len(parts[-1]) == MAX_PAYLOAD
        parts.clear()
        for head, size in ((b"h", MAX_PAYLOAD), (b"", MAX_PAYLOAD + 1)):
            with pytest.raises(TooLargeError, match=f"REPLY frame takes {MAX_PAYLOAD + 1} bytes.*{MAX_PAYLOAD} bytes"):
                encode_parts(Kind.REPLY, 1, head, view[:size])
    assert MAX_BODY + MAX_HEAD == MAX_PAYLOAD


def test_the_error_names_size_and_limit() -> None:
    """What is right is in the sentence, too; whoever made the mistake can catch a ValueError."""
    check_size("it takes", 10, 10)
    check_size("it takes", 12, 10, room=2)
    with pytest.raises(ValueError, match=r"^it takes 11 bytes, over the limit of 10 bytes; make it less$"):
        check_size("it takes", 11, 10, "make it less")
    with pytest.raises(ValueError, match=r"^it takes 2097153 bytes, over the limit of 2097152 bytes \(2 MiB\)$"):
        check_size("it takes", 2**21 + 1, 2**21)


def test_a_user_config_over_the_limit_is_refused_by_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is sent, whichever operation it was for (BC1)."""
    monkeypatch.setattr(backend, "MAX_MESSAGE", 1000)
    config_changes({"user_config": "u" * 900}, "config")
    with pytest.raises(ValueError, match=r"the pickled user_config takes 20\d\d bytes, over the limit of 1000 bytes"):
        config_changes({"user_config": "u" * 2000}, "config")


def test_init_args_over_the_limit_are_refused_by_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code may be larger than its arguments, and has a limit of its own."""

    class Model:
        table = bytes(3000)

        def __init__(self, *data: bytes) -> None:
            pass

        def __call__(self, request: Any) -> None:
            pass

    monkeypatch.setattr(usercode, "MAX_MESSAGE", 2000)
    pack_code(Model, (bytes(1000),))
    with pytest.raises(ValueError, match=r"the pickled init args take 30\d\d bytes, over the limit of 2000 bytes"):
        pack_code(Model, (bytes(3000),))
    monkeypatch.setattr(usercode, "MAX_CODE", 2500)
    with pytest.raises(ValueError, match=r"the pickled code, .* takes \d+ bytes, over the limit of 2500 bytes"):
        pack_code(Model, ())


def test_options_that_could_never_work_are_refused() -> None:
    """A body that no frame holds, middlewares that no pipe holds, a route that no request has, a variable that no
    process is started with."""
    assert HTTPOptions(max_body_bytes=MAX_BODY).max_body_bytes == MAX_BODY
    with pytest.raises(ValueError, match=f"max_body_bytes of HTTPOptions is {3 * 10**9}, .*{MAX_BODY}"):
        HTTPOptions(max_body_bytes=3 * 10**9)

    class Middleware:
        cls, args, kwargs = dict, (), {"data": "x" * 100_000}

    with pytest.raises(
        ValueError, match=r"the pickled middlewares take 100\d\d\d bytes, over the limit of 49152 bytes"
    ):
        pack_middlewares(HTTPOptions(middlewares=[Middleware]))
    check_route("/" + "r" * 8189)
    with pytest.raises(ValueError, match=r"route '/rrr.* takes 8191 bytes, over the limit of 8190 bytes"):
        check_route("/" + "r" * 8190)
    parse_actor_options({"env_vars": {"X": "v" * 131_069}})
    with pytest.raises(ValueError, match="variable 'X' of env_vars takes 131072 bytes, over the limit of 131071"):
        parse_actor_options({"env_vars": {"X": "v" * 131_070}})
