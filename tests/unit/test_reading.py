"""ingress.reading: bytes in, one head or body at a time out."""

from __future__ import annotations

import httptools
import pytest

from pointsman.ingress.framing import BadFraming
from pointsman.ingress.reading import Reader, split_target
from pointsman.ingress.states import BODY, HEAD
from tests.corpus import LAST, SECRET, chunks, post

LENGTH = b"content-length: %d" % len(SECRET)


def targets() -> list[bytes]:
    """Targets with every byte at some places, and odd ones."""
    places = (b"/%s", b"/a%sb", b"/a?%s", b"/a?b%sc", b"//%s", b"%s", b"http://h/%s", b"http://h?%s")
    odd = [b"*", b"", b"/", b"/?", b"/??", b"/a??b", b"//a/b?c", b"/a;b?c?d", b"/#", b"/a?b#c?d", b"x:y", b"foo"]
    return [place % bytes([code]) for place in places for code in range(256)] + odd


def test_targets_are_split_as_a_parser_of_urls_does() -> None:
    """The short way for plain targets gives what the parser gives, and refuses what it refuses."""
    for target in targets():
        if target.startswith(b"http://h?"):
            continue  # without a path: framing.with_path
        try:
            parsed = httptools.parse_url(target)
            wanted: object = (parsed.path, parsed.query or b"")
        except httptools.HttpParserInvalidURLError:
            wanted = None
        try:
            found: object = split_target(target)
        except httptools.HttpParserInvalidURLError:
            found = None
        assert found == wanted, target


def test_one_request_at_a_time() -> None:
    """A reader stops at the end of each request: nothing behind it is looked at. A body of known length that is there
    is read with its head, any other one behind it."""
    reader, seen = Reader(("here", 1)), []
    whole = post(LENGTH, body=SECRET) + post(b"transfer-encoding: chunked", body=chunks(SECRET, b"x")) + LAST
    for data, times in ((whole + post(LENGTH, body=b"G"), 5), (SECRET[1:] + b"\0", 1)):
        position = 0
        for _ in range(times):
            position = reader.read(data, position)
            scope, reader.scope = reader.scope, None
            seen.append((scope and scope["raw_path"], reader.state, reader.take_body()))
        assert data[position:] in (b"G", b"\0")
        if data[position:] == b"G":
            assert reader.read(data, position) == len(data)
    assert seen == [
        (b"/first", HEAD, SECRET),
        (b"/first", BODY, b""),
        (None, HEAD, SECRET + b"x"),
        (b"/last", HEAD, b""),
        (b"/first", BODY, b""),
        (None, HEAD, SECRET),
    ]


@pytest.mark.parametrize("size", [1, 7, 50])
def test_a_head_in_pieces(size: int) -> None:
    """However it is cut, a head is one, and its size is known until it ends."""
    reader = Reader(None)
    head = post(b"x-a: 1", LENGTH)
    for start in range(0, len(head), size):
        assert (reader.head_size, reader.scope) == (start, None)
        piece = head[start : start + size]
        assert reader.read(piece, 0) == len(piece)
    assert (reader.head_size, reader.length, reader.keep_alive) == (0, len(SECRET), True)
    assert reader.scope is not None
    assert reader.scope["headers"] == [(b"host", b"x"), (b"x-a", b"1"), (b"content-length", b"%d" % len(SECRET))]


def test_a_long_head_in_pieces_is_measured() -> None:
    """Fields that are too long are refused before their head has ended."""
    reader = Reader(None)
    reader.read(b"GET / HTTP/1.1\r\nhost: x\r\n", 0)
    field = b"a: %s\r\n" % (b"b" * 8000)
    for _ in range(5):  # a field is known when the next one begins
        reader.read(field, 0)
    with pytest.raises(BadFraming):
        reader.read(field, 0)
    assert reader.status == 431
    assert reader.scope is None


@pytest.mark.parametrize("cut", range(1, 56))
def test_another_protocol_in_pieces(cut: int) -> None:
    """A request of RTSP is refused wherever it is cut, also where a piece looks like the end of HTTP's first line; the
    same one of HTTP is read."""
    for protocol in (b"RTSP", b"HTTP"):
        reader = Reader(None)
        head = b"\r\nGET /a %s/1.1\r\nhost: x\r\nx: HTTP/1.1\r\ny: HTTP/1.1\r\n\r\n" % protocol
        reader.read(head[:cut], 0)
        if protocol == b"HTTP":
            assert reader.read(head[cut:], 0) == len(head) - cut
            assert reader.scope is not None
        else:
            with pytest.raises(BadFraming):
                reader.read(head[cut:], 0)
            assert (reader.scope, reader.state, reader.status) == (None, HEAD, 400)


def test_what_was_said_of_one_request_is_not_said_of_the_next() -> None:
    """Length, chunks and the word that a body is to be asked for belong to one request."""
    reader = Reader(None)
    first = post(b"expect: 100-continue", LENGTH)
    assert reader.read(first, 0) == len(first)
    assert (reader.expects_continue, reader.length, reader.chunked) == (True, len(SECRET), False)
    reader.read(SECRET, 0)
    reader.read(LAST, 0)
    assert (reader.expects_continue, reader.length, reader.chunked) == (False, 0, False)


# --- the last head again ----------------------------------------------------------------------------------------------


def read_all(reader: Reader, *pieces: bytes) -> list[tuple[bytes, bytes]]:
    """Path and body of each request."""
    seen: list[tuple[bytes, bytes]] = []
    path = b""
    for piece in pieces:
        position = 0
        while position < len(piece):
            position = reader.read(piece, position)
            if reader.scope is not None:
                path, reader.scope = reader.scope["raw_path"], None
            if reader.state == HEAD and not reader.head_size:
                seen.append((path, reader.take_body()))
    return seen


def test_a_head_that_comes_again_is_not_parsed_again() -> None:
    """The last head, byte for byte, means what it meant; the parser sees neither it nor its body, however that is
    cut."""
    reader, request = Reader(None), post(LENGTH, body=SECRET)
    assert read_all(reader, request * 2) == [(b"/first", SECRET)] * 2
    reader._parser = None
    assert read_all(reader, request * 2) == [(b"/first", SECRET)] * 2
    assert read_all(reader, request[:-20], request[-20:-10], request[-10:] + request) == [(b"/first", SECRET)] * 2


def test_each_request_has_headers_of_its_own() -> None:
    """What the app adds to the headers of one request is not among those of the next one with the same head."""
    reader, request = Reader(None), post(LENGTH, body=SECRET)
    for _ in range(5):
        reader.read(request, 0)
        assert reader.scope is not None
        assert reader.scope["headers"] == [(b"host", b"x"), (b"content-length", b"%d" % len(SECRET))]
        reader.scope["headers"].append((b"x-request-id", b"1"))
        reader.scope["state"] = {}
        reader.scope = None


def test_the_last_piece_of_a_head_is_no_head() -> None:
    """The same bytes are a head where one begins, and the end of another one behind its beginning: neither is taken for
    the other, whichever comes first."""
    begin, head = b"GET /outer HTTP/1.1\r\nx-a: ", b"GET /inner HTTP/1.1\r\nhost: x\r\n\r\n"
    reader = Reader(None)
    for _ in range(3):
        assert read_all(reader, begin, head) == [(b"/outer", b"")]
        assert read_all(reader, head, head, head) == [(b"/inner", b"")] * 3
        assert read_all(reader, begin + head, head) == [(b"/outer", b""), (b"/inner", b"")]
        assert read_all(reader, b"\r\n", head, b"\r\n" + head) == [(b"/inner", b"")] * 2


OFFER = (b"connection: upgrade", b"upgrade: h2c")


@pytest.mark.parametrize(
    ("headers", "body"),
    [(OFFER, b""), ((*OFFER, LENGTH), SECRET), ((b"transfer-encoding: chunked",), chunks(SECRET))],
)
def test_what_is_not_plain_is_parsed_each_time(headers: tuple[bytes, ...], body: bytes) -> None:
    """Offers of other protocols, and chunks, are looked at each time."""
    reader = Reader(None)
    for _ in range(3):
        assert read_all(reader, post(*headers, body=body)) == [(b"/first", SECRET if body else b"")]
        assert reader._known is None
