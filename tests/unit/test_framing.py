"""ingress.framing: where bodies end, however they are cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.ingress.framing import BadFraming, Chunks, is_chunked, length_of, with_path

REST = b"GET / HTTP/1.1\r\n\r\n"


def ends_at(data: bytes, *cuts: int) -> int | None:
    """Where a chunked body in ``data``, which comes in pieces, ends; None where it goes on."""
    body = Chunks()
    places = [0, *sorted(cut for cut in set(cuts) if 0 < cut < len(data)), len(data)]
    for start, end in itertools.pairwise(places):
        piece = data[start:end]
        position = body.follow(piece, 0)
        if body.over:
            return start + position
        assert position == len(piece)
    return None


@pytest.mark.parametrize("value", [b"0", b"3", b" 3", b"3\t ", b"007", b"9" * 18])
def test_lengths(value: bytes) -> None:
    """A length of 1 to 18 digits, with blanks around it, is one (H3)."""
    assert length_of(value) == int(value)


@pytest.mark.parametrize("value", [b"", b"+3", b"-3", b"3_0", b"0x3", b"3,3", b"3 3", b"9" * 19, "٣".encode(), b"3\0"])
def test_no_lengths(value: bytes) -> None:
    """Whatever else Python takes for a number is none (H3)."""
    with pytest.raises(BadFraming):
        length_of(value)


def test_encodings() -> None:
    """There is one encoding, in any case (H1)."""
    assert all(map(is_chunked, (b"chunked", b"CHUNKED", b" Chunked\t")))
    assert not any(
        map(is_chunked, (b"", b"gzip", b"chunked,", b",chunked", b"chun ked", b"chunked;q=1", b"\x0bchunked"))
    )


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=8),
    extensions=st.lists(st.text("ab=;", max_size=4), min_size=9, max_size=9),
    trailers=st.lists(st.sampled_from([b"a: b\r\n", b"x-long: " + b"y" * 50 + b"\r\n"]), max_size=3),
    cuts=st.lists(st.integers(1, 400), max_size=12),
)
def test_a_body_ends_where_it_ends(
    pieces: list[bytes], extensions: list[str], trailers: list[bytes], cuts: list[int]
) -> None:
    """Chunks of any bytes, extensions, trailers, in any pieces: the end is found to the byte (H2, H5)."""
    body = b"".join(
        b"%x%s\r\n%s\r\n" % (len(piece), f";{extension}".encode() if extension else b"", piece)
        for piece, extension in zip(pieces, extensions, strict=False)
    )
    body += b"0\r\n" + b"".join(trailers) + b"\r\n"
    assert ends_at(body + REST, *cuts) == len(body)
    assert ends_at(body[:-1], *cuts) is None


@given(data=st.binary(max_size=60).map(lambda data: data.replace(b"\x10", b"\r\n")), cuts=st.lists(st.integers(1, 60)))
def test_cuts_change_nothing(data: bytes, cuts: list[int]) -> None:
    """Bytes that are no body are refused, or waited for, however they are cut (F28)."""

    def outcome(*places: int) -> int | str | None:
        try:
            return ends_at(data, *places)
        except BadFraming:
            return "refused"

    whole, cut = outcome(), outcome(*cuts)
    assert cut == whole or {whole, cut} == {None, "refused"}  # in the middle of a line more may be known


NO_CHUNKS = [
    *(b"+3\r\n", b"0x3\r\n", b"3_0\r\n", b"\r\n", b" 3\r\n", b"3 \r\n", b"g\r\n", b"0" * 16 + b"\r\n"),
    *(b"3\r\nabcd\r\n", b"3\r\nabc\n\r\n", b"3\r\nabc\rx\r\n", b"3\n\r\n", b"3\r;a\r\n", b"3;a\nb\r\n"),
    *(b"0\r\na: b\n\r\n", b"0\r\na\rb\r\n"),
]


@pytest.mark.parametrize("data", NO_CHUNKS)
def test_no_chunks(data: bytes) -> None:
    """Sizes, and line ends, are read by the letter (H2, H3)."""
    for cuts in ((), range(1, len(data))):
        with pytest.raises(BadFraming):
            ends_at(data + b"0\r\n\r\n", *cuts)


@pytest.mark.parametrize(("length", "fits"), [(255, True), (256, True), (257, False)])
def test_extensions(length: int, fits: bool) -> None:
    """A chunk's extension may have 256 bytes, its semicolon included."""
    data = b"1;" + b"a" * (length - 1) + b"\r\nx\r\n0\r\n\r\n"
    for cuts in ((), range(1, len(data))):
        if fits:
            assert ends_at(data, *cuts) == len(data)
        else:
            with pytest.raises(BadFraming):
                ends_at(data, *cuts)


@pytest.mark.parametrize("byte", [b"0", b"a", b";"])
def test_a_size_line_without_an_end(byte: bytes) -> None:
    """A chunk-size line that does not end is not collected for ever."""
    with pytest.raises(BadFraming):
        ends_at(byte * 400, *range(400))


def test_trailers_without_an_end() -> None:
    """Neither are trailers (H5)."""
    for trailers in (b"a: b\r\n" * 6000, b"a" * 33_000):
        for cuts in ((), range(0, 36_000, 7)):
            with pytest.raises(BadFraming):
                ends_at(b"0\r\n" + trailers, *cuts)


@pytest.mark.parametrize(
    ("sizes", "fits"),
    [
        ([1] * 999, True),
        ([1] * 1000, False),
        ([16] * 1000, True),
        ([16] * 999 + [15], False),
        ([17] + [16] * 998 + [15], True),
        ([1] * 999 + [15_001], True),
        ([16] * 1000 + [16] * 500, True),
        ([16] * 1000 + [15], False),
    ],
)
def test_tiny_chunks(sizes: list[int], fits: bool) -> None:
    """A thousand chunks may not hold less than 16 bytes each, on average (G12)."""
    data = b"".join(b"%x\r\n%s\r\n" % (size, b"x" * size) for size in sizes) + b"0\r\n\r\n"
    if fits:
        assert ends_at(data) == len(data)
    else:
        with pytest.raises(BadFraming):
            ends_at(data)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/", b"/"),
        (b"/a?b", b"/a?b"),
        (b"*", b"*"),
        (b"http://host", b"http://host/"),
        (b"http://host:80?a=/b", b"http://host:80/?a=/b"),
        (b"HTTPS://h", b"HTTPS://h/"),
        (b"http://host/", b"http://host/"),
        (b"http://host/a?b", b"http://host/a?b"),
        (b"http://", b"http://"),
    ],
)
def test_absolute_targets(target: bytes, expected: bytes) -> None:
    """A target that names a host and no path means ``/``."""
    assert with_path(target) == expected
