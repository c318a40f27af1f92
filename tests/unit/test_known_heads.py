"""ingress.reading: a reader that remembers the last head says the same as one that parses each."""

from __future__ import annotations

from typing import Any

import httptools
from hypothesis import example, given
from hypothesis import strategies as st

from pointsman.ingress.codec import read_headers
from pointsman.ingress.framing import BadFraming
from pointsman.ingress.reading import MAX_KNOWN_HEAD, Reader
from pointsman.ingress.states import HEAD
from tests.corpus import CASES, LAST, OFFERS, SECRET, chunks, post
from tests.properties import examples

LENGTH = b"content-length: %d" % len(SECRET)
PLAIN = [
    LAST,
    post(LENGTH, body=SECRET),
    post(LENGTH, body=SECRET[::-1]),
    post(LENGTH, b"x-request-id: mine", b"x-serve-shadow: 1", body=SECRET),
    post(b"content-length: 0"),
    post(b"expect: 100-continue", LENGTH, body=SECRET),
    post(b"x: " + b"y" * (MAX_KNOWN_HEAD - len(post(b"x: ")) - 1)),
    post(b"x: " + b"y" * (MAX_KNOWN_HEAD - len(post(b"x: ")))),
    post(b"x: " + b"y" * (MAX_KNOWN_HEAD - len(post(b"x: ")) + 1)),
    b"\r\n" + LAST,
    b"\r\n\r\n" + LAST,
]
"""Requests whose heads may be remembered, bar the longest one."""
OTHERS = [
    *[post(*offer, LENGTH, body=SECRET) for offer in OFFERS],
    *[post(*offer, method=b"GET") for offer in OFFERS],
    post(b"transfer-encoding: chunked", body=chunks(SECRET, b"abc")),
    post(b"transfer-encoding: chunked", body=chunks(SECRET, trailers=b"x: y\r\n")),
    post(b"connection: close", LENGTH, body=SECRET),
    LAST.replace(b"HTTP/1.1", b"HTTP/1.0"),
    LAST.replace(b"HTTP/1.1", b"RTSP/1.1"),
    *[case.data for case in CASES[:: len(CASES) // 40]],
]

requests = st.sampled_from(PLAIN) | st.sampled_from(PLAIN + OTHERS)
streams = st.lists(st.tuples(requests, st.integers(1, 5)), min_size=1, max_size=6).map(
    lambda drawn: [request for request, times in drawn for _ in range(times)]
)


def spoil(scope: dict[str, Any]) -> None:
    """Do to a scope what apps do, and worse."""
    read_headers(scope["headers"])
    scope["headers"].append((b"x-spoilt", b"1"))
    scope["headers"].reverse()
    scope["headers"][:1] = [(b"host", b"spoilt")]
    for name in list(scope):
        if name != "headers":
            scope[name] = "spoilt"
    scope["state"] = {}


def told(reader: Reader, pieces: list[bytes], *, remembers: bool = True) -> list[object]:
    """All that a connection learns of these, as long as it would read on. A reader that does not remember parses each
    head."""
    events: list[object] = []
    for piece in pieces:
        position = 0
        while position < len(piece):
            if not remembers:
                reader._known = None
            try:
                position = reader.read(piece, position)
            except (httptools.HttpParserError, BadFraming) as error:
                return [*events, (type(error), str(error), reader.status, reader.state)]
            if reader.scope is not None:
                scope, reader.scope = reader.scope, None
                events.append({**scope, "headers": list(scope["headers"])})
                events.append((reader.keep_alive, reader.expects_continue, reader.length, reader.chunked))
                spoil(scope)
            events.append((position, reader.state, reader.head_size, reader.take_body()))
            if reader.state == HEAD and not reader.keep_alive:
                return events  # the connection closes behind the answer
    return events


def cut(requests: list[bytes], kind: str, places: list[int]) -> list[bytes]:
    """One piece for each request, heads and bodies in pieces of their own, one piece for all, or any pieces."""
    if kind == "each":
        return requests
    if kind == "heads":
        parts = [request.partition(b"\r\n\r\n") for request in requests]
        middles = [
            places[number % len(places)] % (1 + len(body)) if places else 0 for number, (*_, body) in enumerate(parts)
        ]
        pieces = [
            piece
            for (head, end, body), middle in zip(parts, middles, strict=True)
            for piece in (head + end, body[:middle], body[middle:])
        ]
        return [piece for piece in pieces if piece]
    data = b"".join(requests)
    if kind == "all":
        return [data]
    ends = sorted({place % len(data) for place in places} | {len(data)} - {0})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(streams, st.sampled_from(["each", "heads", "all", "anywhere"]), st.lists(st.integers(0, 10_000), max_size=6))
@example([LAST, LAST, LAST.replace(b"last", b"lasz"), LAST, LAST, LAST], "each", [])
@examples(300)
def test_a_known_head_means_what_it_meant(requests: list[bytes], kind: str, places: list[int]) -> None:
    """A client repeats heads, with other bodies, offers, expectations and chunks between them, in pieces or in one, and
    the app does what it likes with what it gets: each request is seen as if its head had been parsed (H1, H7, F28)."""
    pieces = cut(requests, kind, places)
    assert told(Reader(("here", 1)), pieces) == told(Reader(("here", 1)), pieces, remembers=False)


@given(
    st.sampled_from(PLAIN),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255), st.booleans()), min_size=1, max_size=3),
)
@examples(300)
def test_a_head_with_another_byte_is_another_head(request: bytes, changes: list[tuple[int, int, bool]]) -> None:
    """One byte of a head is changed or lost, and the head is read anew (F28)."""
    requests = [request] * 3
    for place, code, is_lost in changes:
        place %= len(request)
        changed = request[:place] + (b"" if is_lost else bytes([code])) + request[place + 1 :]
        requests += [changed, changed, changed, request, request]
    assert told(Reader(None), requests) == told(Reader(None), requests, remembers=False)


def test_what_is_remembered() -> None:
    """The heads of these tests are indeed remembered, as long as they are short, and come in one piece."""
    for request in PLAIN:
        reader = Reader(None)
        told(reader, [request] * 2)
        is_one = len(request) <= MAX_KNOWN_HEAD and not request.startswith(b"\r\n\r\n")
        assert (reader._known is not None) == is_one, request[:80]
    for request in OTHERS[: 2 * len(OFFERS) + 5]:
        reader = Reader(None)
        told(reader, [LAST, LAST, request, request])
        is_no_offer = b"upgrade: h2c" in request and b"connection" not in request
        assert (reader._known is not None) == is_no_offer, request[:80]
