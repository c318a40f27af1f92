"""policy.shardkey: where a request's key is, and which bytes are one."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.model import DEFAULT_SHARD_KEY
from pointsman.policy.shardkey import MAX_SHARD_KEY, BadShardKey, check_key, check_source, decode_key, read_key
from tests.properties import examples

Headers = list[tuple[bytes, bytes]]

TOKEN = "ABCXYZabcxyz0189!#$%&'*+-.^_`|~"
short_text = st.text(max_size=60)


def cookies(*values: bytes) -> Headers:
    return [(b"cookie", value) for value in values]


# --- sources --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (DEFAULT_SHARD_KEY, DEFAULT_SHARD_KEY),
        ("header:X-User", "header:x-user"),
        ("header:x-user", "header:x-user"),
        ("header:" + TOKEN, "header:" + TOKEN.lower()),
        ("cookie:SessionId", "cookie:SessionId"),
        ("cookie:__Host-id", "cookie:__Host-id"),
        ("query:User", "query:User"),
        ("query:user[id]", "query:user[id]"),
        ("query:a:b", "query:a:b"),
        ("header:" + "x" * 200, "header:" + "x" * 200),
    ],
)
def test_good_sources(given: str, stored: str) -> None:
    """An operator names a header in any case, or a cookie or parameter as it is written (SA1)."""
    assert check_source(given) == stored
    assert check_source(stored) == stored


@pytest.mark.parametrize(
    "source",
    [
        "",
        ":",
        "header",
        "header:",
        "X-User",
        ":x-user",
        "Header:x-user",
        "body:user",
        "header:x user",
        "header:x:user",
        "header:x-user\n",
        " header:x-user",
        "header:größe",
        "header:" + "x" * 201,
        "cookie:",
        "cookie:a=b",
        "cookie:a;b",
        "cookie:a b",
        'cookie:"a"',
        "query:",
        "query:a b",
        "query:größe",
        "query:a\0",
        "query:" + "x" * 201,
    ],
)
def test_bad_sources(source: str) -> None:
    """A source that no request could satisfy is refused, with the three forms and what was given (SA5)."""
    with pytest.raises(ValueError) as caught:
        check_source(source)
    assert str(caught.value) == (f"shard_key must be 'header:NAME', 'cookie:NAME' or 'query:NAME', not {source!r}")


@pytest.mark.parametrize("source", [None, 5, b"header:x", ("header", "x"), True])
def test_sources_are_strings(source: Any) -> None:
    """Anything but a str is a TypeError that shows what was given (SA5)."""
    with pytest.raises(TypeError) as caught:
        check_source(source)
    assert str(caught.value) == f"shard_key must be a str such as 'header:X-User', not {source!r}"


# --- keys that are given in Python ----------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "a", "x" * 256, "é" * 128, "日" * 85, "🦆" * 64, "a\0b", "\n"])
def test_good_keys(key: str) -> None:
    """Any text of at most 256 bytes is a key, the empty one too (SA5)."""
    assert check_key(key) is key


@pytest.mark.parametrize(("key", "size"), [("x" * 257, 257), ("é" * 129, 258), ("日" * 86, 258), ("🦆" * 65, 260)])
def test_keys_are_measured_in_bytes(key: str, size: int) -> None:
    """The limit is on bytes of UTF-8, as it is for a header, and the error says how many there are (SA5)."""
    with pytest.raises(ValueError, match=f"shard_key .* has {size} bytes of UTF-8, and 256 are allowed"):
        check_key(key)


@pytest.mark.parametrize("key", [None, 5, 1.5, b"alice", True, ["alice"]])
def test_keys_are_strings(key: Any) -> None:
    """A key that is no str is a TypeError that shows it (SA5)."""
    with pytest.raises(TypeError) as caught:
        check_key(key, "the key")
    assert str(caught.value) == f"the key must be a str, not {key!r}"


@pytest.mark.parametrize("key", ["\ud800", "a\udcffb", "\udc80" * 300])
def test_keys_are_text(key: str) -> None:
    """Half of a surrogate pair has no bytes, so it is refused here and not in a router (SA5)."""
    with pytest.raises(ValueError, match="cannot be encoded as UTF-8"):
        check_key(key)


# --- keys of requests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([(b"x-other", b"alice")], None),
        ([(b"x-user", b"alice")], "alice"),
        ([(b"x-user", b"")], ""),
        ([(b"x-user", b"alice"), (b"x-user", b"bob")], "alice"),
        ([(b"x-user", b""), (b"x-user", b"bob")], ""),
        ([(b"x-user", "Zoë".encode())], "Zoë"),
        ([(b"x-user", b"a%20b+c")], "a%20b+c"),
        ([(b"x-user", b'"quoted"')], '"quoted"'),
    ],
)
def test_headers(headers: Headers, key: str | None) -> None:
    """A header's value is the key as it stands; the first one counts, and no header is no key (SA5)."""
    assert read_key("header:x-user", headers, b"x-user=query") == key


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        (cookies(b""), None),
        (cookies(b"other=alice"), None),
        (cookies(b"user=alice"), "alice"),
        (cookies(b"user="), ""),
        (cookies(b"user"), None),
        (cookies(b"user; user=bob"), "bob"),
        (cookies(b"user=alice; user=bob"), "alice"),
        (cookies(b"a=1;user=alice;b=2"), "alice"),
        (cookies(b"a=1 ;  user = alice ; b=2"), "alice"),
        (cookies(b"a=1", b"user=alice"), "alice"),
        (cookies(b"user=alice", b"user=bob"), "alice"),
        (cookies(b'user="alice"'), "alice"),
        (cookies(b'user=""'), ""),
        (cookies(b'user="'), '"'),
        (cookies(b'user="alice'), '"alice'),
        (cookies(b"user=a=b="), "a=b="),
        (cookies(b"User=alice"), None),
        (cookies(b"xuser=alice; userx=bob"), None),
        (cookies(b"user=a%20b+c"), "a%20b+c"),
        (cookies("user=Zoë".encode()), "Zoë"),
        ([(b"x-cookie", b"user=alice")], None),
    ],
)
def test_cookies(headers: Headers, key: str | None) -> None:
    """The first cookie of the name counts, over all Cookie headers, less its quotes; one without '=' is none (SA5)."""
    assert read_key("cookie:user", headers, b"user=query") == key


@pytest.mark.parametrize(
    ("query", "key"),
    [
        (b"", None),
        (b"&&", None),
        (b"other=alice", None),
        (b"user=alice", "alice"),
        (b"user=", ""),
        (b"user", ""),
        (b"user&user=bob", ""),
        (b"user=alice&user=bob", "alice"),
        (b"a=1&user=alice&b=2", "alice"),
        (b"user=a%20b+c", "a b c"),
        (b"user=a%2Bb", "a+b"),
        (b"user=a%26b%3Dc", "a&b=c"),
        (b"user=a=b", "a=b"),
        (b"us%65r=alice", "alice"),
        (b"user=Zo%C3%AB", "Zoë"),
        ("user=Zoë".encode(), "Zoë"),
        (b"user=100%", "100%"),
        (b"user=%zz", "%zz"),
        (b"User=alice", None),
        (b"user=a;b", "a;b"),
    ],
)
def test_parameters(query: bytes, key: str | None) -> None:
    """The first parameter of the name counts, percent-decoded, with '+' as a space (SA5)."""
    assert read_key("query:user", [(b"user", b"header"), (b"cookie", b"user=cookie")], query) == key


@pytest.mark.parametrize(("name", "query"), [("user[id]", b"user%5Bid%5D=1"), ("a%b", b"a%25b=1"), ("a:b", b"a:b=1")])
def test_parameter_names_are_compared_decoded(name: str, query: bytes) -> None:
    """A parameter with brackets in its name is found as browsers send it (SA5)."""
    assert read_key(check_source(f"query:{name}"), [], query) == "1"


LONG = b"x" * (MAX_SHARD_KEY + 1)


@pytest.mark.parametrize(
    ("source", "headers", "query", "text"),
    [
        ("header:x-user", [(b"x-user", b"\xff")], b"", "not UTF-8"),
        ("header:x-user", [(b"x-user", b"Zo\xeb")], b"", "not UTF-8"),
        ("header:x-user", [(b"x-user", LONG)], b"", "over 256 bytes"),
        ("cookie:user", cookies(b"user=\xff"), b"", "not UTF-8"),
        ("cookie:user", cookies(b"user=" + LONG), b"", "over 256 bytes"),
        ("query:user", [], b"user=%ff", "not UTF-8"),
        ("query:user", [], b"user=%ED%A0%80", "not UTF-8"),
        ("query:user", [], b"user=" + LONG, "over 256 bytes"),
        ("query:user", [], b"user=" + b"%C3%AB" * 129, "over 256 bytes"),
    ],
)
def test_keys_that_cannot_be_used(source: str, headers: Headers, query: bytes, text: str) -> None:
    """A key that is not text, or too long, is an error and not another key or none; the text says which (SA5)."""
    with pytest.raises(BadShardKey, match=text) as caught:
        read_key(source, headers, query)
    assert "xxx" not in str(caught.value)


def test_the_limit_is_on_what_was_decoded() -> None:
    """256 bytes are a key from every source, however long their encoding is (SA5)."""
    key = "x" * MAX_SHARD_KEY
    assert read_key("header:x-user", [(b"x-user", key.encode())], b"") == key
    assert read_key("cookie:user", cookies(b'user="%s"' % key.encode()), b"") == key
    assert read_key("query:user", [], b"user=" + b"%78" * MAX_SHARD_KEY) == key
    assert decode_key(b"") == ""


@examples(300)
@given(fields=st.lists(st.tuples(st.sampled_from(["user", "a b", "ü", ""]), short_text), max_size=5))
def test_any_parameter_comes_back(fields: list[tuple[str, str]]) -> None:
    """Whatever a form encodes as a parameter is the key, character by character (SA5)."""
    expected = next((value for name, value in fields if name == "user"), None)
    for encode in (urlencode(fields), urlencode(fields, quote_via=quote)):
        assert read_key("query:user", [], encode.encode()) == expected


@examples(300)
@given(pairs=st.lists(st.tuples(st.sampled_from(["user", "a", "b"]), st.text(TOKEN, max_size=20)), max_size=5))
def test_any_cookie_comes_back(pairs: list[tuple[str, str]]) -> None:
    """Whatever token a site sets as a cookie is the key, plain or quoted, in one header or many (SA5)."""
    expected = next((value for name, value in pairs if name == "user"), None)
    plain = [f"{name}={value}".encode() for name, value in pairs]
    quoted = [f'{name}="{value}"'.encode() for name, value in pairs]
    for headers in (cookies(b"; ".join(plain)), cookies(*plain), cookies(b";".join(quoted)), cookies(*quoted)):
        assert read_key("cookie:user", headers, b"") == expected


@examples(300)
@given(key=st.text(max_size=100))
def test_header_and_handle_agree(key: str) -> None:
    """A key that a handle takes is the same key when it comes as a header, and both refuse the same ones (SA1, SA5)."""
    header = [(b"x-user", key.encode())]
    try:
        check_key(key)
    except ValueError:
        with pytest.raises(BadShardKey):
            read_key("header:x-user", header, b"")
    else:
        assert read_key("header:x-user", header, b"") == key
