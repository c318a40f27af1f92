"""replica.answers: which headers of user code are sent on."""

from __future__ import annotations

import pytest

from pointsman.exceptions import UserCodeError
from pointsman.replica.answers import MAX_RESPONSE_HEAD, check_headers

TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize("byte", [bytes([number]) for number in range(256)])
def test_names_and_values_byte_by_byte(byte: bytes) -> None:
    """A name is of token characters; a value has no control characters but the tab. Anything else is an error that
    names the header (H13)."""
    name, value = b"x-" + byte + b"a", b"a" + byte + b"b"
    if byte in TOKEN:
        assert check_headers([(name, b"v")]) == [(name.lower(), b"v")]
    else:
        with pytest.raises(UserCodeError) as caught:
            check_headers([(name, b"v")])
        assert repr(name) in str(caught.value)
    if byte != b"\t" and (byte < b" " or byte == b"\x7f"):
        with pytest.raises(UserCodeError) as caught:
            check_headers([(b"x-a", value)])
        assert "b'x-a'" in str(caught.value)
    else:
        assert check_headers([(b"x-a", value)]) == [(b"x-a", value)]


@pytest.mark.parametrize(
    "name", [b"", b" ", b"a b", b"a:", b":a", b"a\r\nb: c", "Größe".encode("latin-1"), b"a" * 200 + b"("]
)
def test_no_names(name: bytes) -> None:
    """An empty name is none either; a long one is not repeated in full (H13)."""
    with pytest.raises(UserCodeError) as caught:
        check_headers([(b"x-fine", b"1"), (name, b"v")])
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


def test_what_only_the_server_says() -> None:
    """Headers of the connection, the length, and those that the ingress adds are dropped, in any case (H13)."""
    names = [b"Connection", b"Keep-Alive", b"Transfer-Encoding", b"Upgrade", b"TE", b"Trailer", b"Content-Length"]
    assert check_headers([*((name, b"1") for name in names), (b"X-Serve-Backend", b"b"), (b"X-A", b"1")]) == [
        (b"x-a", b"1")
    ]


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_the_size_of_a_head(more: int) -> None:
    """A head of 64 KiB is sent, one byte more is an error."""
    headers = [(b"x-a", b"v" * (MAX_RESPONSE_HEAD - len("x-a: \r\n") + more))]
    if more > 0:
        with pytest.raises(UserCodeError, match=str(MAX_RESPONSE_HEAD)):
            check_headers(headers)
    else:
        assert check_headers(headers) == headers
