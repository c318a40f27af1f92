"""Requests by which one part of a chain of servers is led to see another request than the next part does.

Each case is a stream of bytes with what a server that reads it by the letter makes of it. ``{front}`` stands for the
line ends and the rest of a request that is to be harmless. Whatever comes of a case: a path that begins with
``/secret`` is in a body only, and no server may ever take it for a request.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import NamedTuple

SECRET = b"GET /secret HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
LAST = b"GET /last HTTP/1.1\r\nhost: x\r\n\r\n"


class Case(NamedTuple):
    """
    Attributes:
        data: what a client sends.
        served: bodies of the requests that user code sees, in order; None for "refused".
    """

    name: str
    data: bytes
    served: tuple[bytes, ...] | None


def post(*headers: bytes, body: bytes = b"", path: bytes = b"/first", method: bytes = b"POST") -> bytes:
    lines = b"".join(header + b"\r\n" for header in (b"host: x", *headers))
    return b"%s %s HTTP/1.1\r\n%s\r\n%s" % (method, path, lines, body)


def chunks(*pieces: bytes, trailers: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailers + b"\r\n"


LENGTH = b"content-length: %d" % len(SECRET)
ENCODING = b"transfer-encoding: chunked"

OFFERS: list[tuple[bytes, ...]] = [
    (b"connection: Upgrade", b"upgrade: h2c"),
    (b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAoAAAAAIAAAAA"),
    (b"connection: keep-alive, Upgrade", b"upgrade: websocket", b"sec-websocket-key: k", b"sec-websocket-version: 13"),
    (b"upgrade: foo/1, h2c", b"connection: upgrade"),
    (b"connection: close", b"connection: upgrade", b"upgrade: TLS/1.0"),
    (b"upgrade: h2c",),
]


def offers() -> Iterator[Case]:
    """Another protocol is offered, and the body is a request's body all the same."""
    for number, offer in enumerate(OFFERS):
        closes = b"connection: close" in offer
        rest, after = (b"", ()) if closes else (LAST, (b"",))
        yield Case(f"offer {number}, length", post(*offer, LENGTH, body=SECRET) + rest, (SECRET, *after))
        body = chunks(SECRET, b"abc")
        yield Case(f"offer {number}, chunks", post(*offer, ENCODING, body=body) + rest, (SECRET + b"abc", *after))
        yield Case(f"offer {number}, no body", post(*offer, method=b"GET") + rest, (b"", *after))
        yield Case(f"offer {number}, length 0", post(*offer, b"content-length: 0") + rest, (b"", *after))
        if not closes:
            twice = post(*offer, LENGTH, body=SECRET) + post(*offer, ENCODING, body=chunks(SECRET))
            yield Case(f"offer {number}, twice", twice + LAST, (SECRET, SECRET, b""))


def tunnels() -> Iterator[Case]:
    """A tunnel is asked for: nobody opens one."""
    for target in (b"/first", b"example.org:80"):
        for headers, body in (((), SECRET), ((LENGTH,), SECRET), ((ENCODING,), chunks(SECRET))):
            data = post(*headers, body=body, path=target, method=b"CONNECT")
            yield Case(f"CONNECT {target.decode()} {headers}", data, None)


FRAMING: list[tuple[str, bytes]] = [
    ("a length and chunks", post(LENGTH, ENCODING, body=chunks(SECRET))),
    ("chunks and a length", post(ENCODING, LENGTH, body=chunks(SECRET))),
    ("two lengths", post(b"content-length: 3", LENGTH, body=SECRET)),
    ("a list of lengths", post(b"content-length: 3, 3", body=SECRET)),
    ("a length with a sign", post(b"content-length: +3", body=SECRET)),
    ("a negative length", post(b"content-length: -1", body=SECRET)),
    ("a length in hexadecimal", post(b"content-length: 0x3", body=SECRET)),
    ("a length with an underscore", post(b"content-length: 3_0", body=SECRET)),
    ("a length of other digits", post("content-length: ٣".encode(), body=SECRET)),
    ("a length of 19 digits", post(b"content-length: 0000000000000000003", body=b"abc" + SECRET)),
    ("a length of 30 digits", post(b"content-length: " + b"9" * 30, body=SECRET)),
    ("no length", post(b"content-length:", body=SECRET)),
    ("a length in two lines", post(b"content-length: 3\r\n 4", body=SECRET)),
    ("a blank before the colon", post(b"transfer-encoding : chunked", body=chunks(SECRET))),
    ("a vertical tab", post(b"transfer-encoding: \x0bchunked", body=chunks(SECRET))),
    ("two encodings", post(b"transfer-encoding: gzip, chunked", body=chunks(SECRET))),
    ("encodings in two lines", post(b"transfer-encoding: gzip", ENCODING, body=chunks(SECRET))),
    ("chunked twice", post(ENCODING, ENCODING, body=chunks(SECRET))),
    ("chunked, twice", post(b"transfer-encoding: chunked, chunked", body=chunks(SECRET))),
    ("an empty element", post(b"transfer-encoding: ,chunked", body=chunks(SECRET))),
    ("another encoding", post(b"transfer-encoding: xchunked", body=chunks(SECRET))),
    ("identity", post(b"transfer-encoding: identity", LENGTH, body=SECRET)),
    ("a parameter", post(b"transfer-encoding: chunked;q=1", body=chunks(SECRET))),
    ("an empty encoding", post(b"transfer-encoding:", LENGTH, body=SECRET)),
    ("chunks in HTTP/1.0", post(ENCODING, body=chunks(SECRET)).replace(b"HTTP/1.1", b"HTTP/1.0", 1)),
    ("HTTP/2.0", post(LENGTH, body=SECRET).replace(b"HTTP/1.1", b"HTTP/2.0", 1)),
    ("NUL in a name", post(b"x\0y: 1", LENGTH, body=SECRET)),
    ("NUL in a value", post(b"x: \0", LENGTH, body=SECRET)),
    ("bare LF in a head", post(b"x: y\nz: a", LENGTH, body=SECRET)),
    ("bare CR in a head", post(b"x: y\rz: a", LENGTH, body=SECRET)),
    ("a folded line", post(b"x: y\r\n z", LENGTH, body=SECRET)),
    ("no name", post(b": y", LENGTH, body=SECRET)),
    ("a tab before the colon", post(b"transfer-encoding\t: chunked", body=chunks(SECRET))),
    ("a blank in a name", post(b"transfer encoding: chunked", LENGTH, body=SECRET)),
    ("a blank before a name", post(b" transfer-encoding: chunked", LENGTH, body=SECRET)),
    ("no colon", post(b"transfer-encoding", LENGTH, body=SECRET)),
    ("chunked in quotes", post(b'transfer-encoding: "chunked"', body=chunks(SECRET))),
    ("chunked and a comma", post(b"transfer-encoding: chunked,", body=chunks(SECRET))),
    ("chunked and identity", post(b"transfer-encoding: chunked, identity", LENGTH, body=SECRET)),
    ("chunked and another line end", post(b"transfer-encoding: chunked\x85", body=chunks(SECRET))),
    ("chunked with another k", post("transfer-encoding: chun\u212aed".encode(), body=chunks(SECRET))),
    ("chunked behind LF", post(b"x: y\ntransfer-encoding: chunked", LENGTH, body=SECRET)),
    ("chunked behind CR", post(b"x: y\rtransfer-encoding: chunked", LENGTH, body=SECRET)),
    ("a length behind LF", post(b"x: y\ncontent-length: 3", LENGTH, body=SECRET)),
    ("the same length twice", post(LENGTH, LENGTH, body=SECRET)),
    ("a length and a comma", post(b"content-length: 3,", body=SECRET)),
    ("a length of two words", post(b"content-length: 3 4", body=SECRET)),
    ("a length with a fraction", post(b"content-length: 3.0", body=SECRET)),
    ("a length with an exponent", post(b"content-length: 3e0", body=SECRET)),
    ("two hosts", post(b"host: y", LENGTH, body=SECRET)),
    ("no host", post(LENGTH, body=SECRET).replace(b"host: x\r\n", b"", 1)),
    ("RTSP", post(LENGTH, body=SECRET).replace(b"HTTP/1.1", b"RTSP/1.1", 1)),
    ("RTSP, with HTTP behind it", post(b"x: HTTP/1.1", LENGTH, body=SECRET).replace(b"HTTP/1.1", b"RTSP/1.1", 1)),
    ("RTSP/1.0", post(LENGTH, body=SECRET).replace(b"HTTP/1.1", b"RTSP/1.0", 1)),
    ("ICE", post(LENGTH, body=SECRET, method=b"SOURCE").replace(b"HTTP/1.1", b"ICE/1.1", 1)),
    ("HTTP/1.2", post(LENGTH, body=SECRET).replace(b"HTTP/1.1", b"HTTP/1.2", 1)),
    ("HTTP/01.1", post(LENGTH, body=SECRET).replace(b"HTTP/1.1", b"HTTP/01.1", 1)),
    ("http/1.1", post(LENGTH, body=SECRET).replace(b"HTTP/1.1", b"http/1.1", 1)),
    ("a blank behind the version", post(LENGTH, body=SECRET).replace(b"HTTP/1.1", b"HTTP/1.1 ", 1)),
    ("something behind the version", post(LENGTH, body=SECRET).replace(b"HTTP/1.1", b"HTTP/1.1 HTTP/1.1", 1)),
    ("tabs in the first line", post(LENGTH, body=SECRET).replace(b" ", b"\t", 2)),
    ("a method that is none", post(LENGTH, body=SECRET, method=b"P@ST")),
    ("a method in lower case", post(LENGTH, body=SECRET, method=b"post")),
    ("a blank in the target", post(LENGTH, body=SECRET, path=b"/first one")),
    ("CR in the target", post(LENGTH, body=SECRET, path=b"/first\rone")),
    ("LF in the target", post(LENGTH, body=SECRET, path=b"/first\none")),
    ("NUL in the target", post(LENGTH, body=SECRET, path=b"/first\0one")),
    ("a blank before the method", b" " + post(LENGTH, body=SECRET)),
    ("LF for line ends", post(LENGTH, body=SECRET).replace(b"\r\n", b"\n")),
    ("LF for the empty line", post(LENGTH, body=SECRET).replace(b"\r\n\r\n", b"\r\n\n", 1)),
    ("CR for the empty line", post(LENGTH, body=SECRET).replace(b"\r\n\r\n", b"\r\n\r", 1)),
]

CHUNKS: list[tuple[str, bytes]] = [
    ("a signed size", b"+3\r\nabc\r\n0\r\n\r\n"),
    ("a size with 0x", b"0x3\r\nabc\r\n0\r\n\r\n"),
    ("a size with an underscore", b"0_3\r\nabc\r\n0\r\n\r\n"),
    ("a size of 16 digits", b"0000000000000003\r\nabc\r\n0\r\n\r\n"),
    ("a size beyond 64 bits", b"ffffffffffffffffff\r\nabc"),
    ("no size", b"\r\nabc\r\n0\r\n\r\n"),
    ("a blank behind the size", b"3 \r\nabc\r\n0\r\n\r\n"),
    ("a blank before the size", b" 3\r\nabc\r\n0\r\n\r\n"),
    ("LF behind the size", b"3\nabc\r\n0\r\n\r\n"),
    ("CR behind the size", b"3\rabc\r\n0\r\n\r\n"),
    ("LF behind the data", b"3\r\nabc\n0\r\n\r\n"),
    ("no line end behind the data", b"3\r\nabc0\r\n\r\n"),
    ("data longer than their size", b"3\r\nabcd\r\n0\r\n\r\n"),
    ("LF in an extension", b"3;a\nb\r\nabc\r\n0\r\n\r\n"),
    ("CR in an extension", b"3;a\rb\r\nabc\r\n0\r\n\r\n"),
    ("a line end in a quoted extension", b'3;a="\r\n"\r\nabc\r\n0\r\n\r\n'),
    ("NUL in an extension", b"3;a=\0\r\nabc\r\n0\r\n\r\n"),
    ("a long extension", b"3;" + b"a" * 256 + b"\r\nabc\r\n0\r\n\r\n"),
    ("LF behind the last chunk", b"3\r\nabc\r\n0\n\n"),
    ("LF behind a trailer", b"3\r\nabc\r\n0\r\nx: y\n\r\n"),
    ("a length in the trailers", b"3\r\nabc\r\n0\r\ncontent-length: 40\r\n\r\n"),
    ("chunks in the trailers", b"3\r\nabc\r\n0\r\ntransfer-encoding: chunked\r\n\r\n"),
    ("a trailer without a name", b"3\r\nabc\r\n0\r\n: x\r\n\r\n"),
    ("a trailer with NUL", b"3\r\nabc\r\n0\r\nx: \0\r\n\r\n"),
    ("a negative size", b"-3\r\nabc\r\n0\r\n\r\n"),
    ("a tab behind the size", b"3\t\r\nabc\r\n0\r\n\r\n"),
    ("a size of other digits", "\uff13\r\nabc\r\n0\r\n\r\n".encode()),
    ("a size that is a word", b"chunk\r\nabc\r\n0\r\n\r\n"),
    ("two CR behind the size", b"3\r\r\nabc\r\n0\r\n\r\n"),
    ("CR behind the data", b"3\r\nabc\r0\r\n\r\n"),
    ("two letters behind the data", b"3\r\nabcxx0\r\n\r\n"),
    ("two LF behind the data", b"3\r\nabc\n\n0\r\n\r\n"),
    ("two line ends behind the data", b"3\r\nabc\r\n\r\n0\r\n\r\n"),
    ("an extension that is LF", b"3;\n\r\nabc\r\n0\r\n\r\n"),
    ("an extension that ends with CR", b"3;a\r\r\nabc\r\n0\r\n\r\n"),
    ("an extension of the last chunk with LF", b"3\r\nabc\r\n0;\nx\r\n\r\n"),
    ("no end of the trailers", b"3\r\nabc\r\n0\r\n"),
    ("a folded trailer", b"3\r\nabc\r\n0\r\nx: y\r\n z\r\n\r\n"),
    ("a trailer with LF in it", b"3\r\nabc\r\n0\r\nx: y\nz: a\r\n\r\n"),
    ("CR behind a trailer", b"3\r\nabc\r\n0\r\nx: y\r\r\n"),
    ("a blank in a trailer's name", b"3\r\nabc\r\n0\r\nx y: z\r\n\r\n"),
]


def malformed() -> Iterator[Case]:
    """Refused, whatever follows."""
    for name, data in FRAMING:
        yield Case(name, data + SECRET, None)
    for name, body in CHUNKS:
        yield Case(name, post(ENCODING, body=body) + SECRET, None)
        yield Case(f"{name}, with an offer", post(*OFFERS[0], ENCODING, body=body) + SECRET, None)


def fine() -> Iterator[Case]:
    """What looks odd and is right."""
    for name, data, body in (
        ("a length with blanks", post(b"content-length:  %d  " % len(SECRET), body=SECRET), SECRET),
        ("a length of 18 digits", post(b"content-length: %018d" % len(SECRET), body=SECRET), SECRET),
        ("CHUNKED", post(b"Transfer-Encoding: CHUNKED ", body=chunks(SECRET)), SECRET),
        ("a size of 15 digits", post(ENCODING, body=b"000000000000003\r\nabc\r\n0\r\n\r\n"), b"abc"),
        ("a size in upper case", post(ENCODING, body=b"A\r\n0123456789\r\n0\r\n\r\n"), b"0123456789"),
        ("an extension", post(ENCODING, body=b'3;a="b;c";d\r\nabc\r\n0;e\r\n\r\n'), b"abc"),
        ("the longest extension", post(ENCODING, body=b"3;" + b"a" * 255 + b"\r\nabc\r\n0\r\n\r\n"), b"abc"),
        ("a trailer", post(ENCODING, body=chunks(SECRET, trailers=b"x-serve-call-method: secret\r\n")), SECRET),
        ("an empty body of chunks", post(ENCODING, body=chunks()), b""),
        (
            "line ends in chunks",
            post(ENCODING, body=chunks(b"\r\n", b"\r\n\r\n", b"0\r\n\r\n")),
            b"\r\n\r\n\r\n0\r\n\r\n",
        ),
        ("a body of GET", post(LENGTH, body=SECRET, method=b"GET"), SECRET),
        ("a length behind a tab", post(b"content-length:\t%d" % len(SECRET), body=SECRET), SECRET),
        ("chunked behind a tab", post(b"transfer-encoding:\tchunked", body=chunks(SECRET)), SECRET),
        (
            "names with an underscore",
            post(b"transfer_encoding: chunked", b"content_length: 3", LENGTH, body=SECRET),
            SECRET,
        ),
        ("a size of many zeros", post(ENCODING, body=b"003\r\nabc\r\n000\r\n\r\n"), b"abc"),
        ("empty lines before", b"\r\n\r\n" + post(LENGTH, body=SECRET), SECRET),
    ):
        yield Case(name, data + b"\r\n" + LAST, (body, b""))


CASES: list[Case] = [*offers(), *tunnels(), *malformed(), *fine()]


def cuts(data: bytes, seed: int) -> Iterator[list[bytes]]:
    """The same bytes whole, line by line, byte by byte, cut anywhere, by head and body, and behind the first byte."""
    chance = random.Random(seed)
    yield [data]
    yield data.splitlines(keepends=True)
    yield [data[i : i + 1] for i in range(len(data))]
    places = sorted({0, len(data), *(chance.randrange(len(data)) for _ in range(6))})
    yield [data[start:end] for start, end in itertools.pairwise(places)]
    head = data.find(b"\r\n\r\n") + 4
    yield [data[:head], data[head:]] if head < len(data) else [data]
    yield [data[:1], data[1:]]
