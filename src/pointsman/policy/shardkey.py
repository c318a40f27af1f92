"""Reads the shard key of an HTTP request from its source: ``header:NAME``, ``cookie:NAME`` or ``query:NAME``. Pure."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote_to_bytes

#: Bytes of UTF-8.
MAX_SHARD_KEY = 256
#: How many keys of one endpoint may be pinned.
MAX_PINS = 10_000

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}")
_QUERY_NAME = re.compile(r"[!-~]{1,200}")


class BadShardKey(Exception):
    """A request's key is not UTF-8, or too long; the text says what."""


def check_source(source: Any) -> str:
    """Check a source of keys, and return it with the names of headers in lower case.

    Raises:
        TypeError: not a str.
        ValueError: none of the three forms.
    """
    if not isinstance(source, str):
        raise TypeError(f"shard_key must be a str such as 'header:X-User', not {source!r}")
    kind, _, name = source.partition(":")
    legal = {"header": _TOKEN, "cookie": _TOKEN, "query": _QUERY_NAME}.get(kind)
    if legal is None or not legal.fullmatch(name):
        raise ValueError(f"shard_key must be 'header:NAME', 'cookie:NAME' or 'query:NAME', not {source!r}")
    return f"{kind}:{name.lower() if kind == 'header' else name}"


def check_key(key: Any, what: str = "shard_key") -> str:
    """Check a key that was given in Python, and return it.

    Raises:
        TypeError: not a str.
        ValueError: over 256 bytes, or not text.
    """
    if not isinstance(key, str):
        raise TypeError(f"{what} must be a str, not {key!r}")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} {key!r} cannot be encoded as UTF-8") from None
    if size > MAX_SHARD_KEY:
        raise ValueError(f"{what} {key[:20]!r}... has {size} bytes of UTF-8, and {MAX_SHARD_KEY} are allowed")
    return key


def read_key(source: str, headers: list[tuple[bytes, bytes]], query: bytes) -> str | None:
    """The key of a request; None if it has none. The first header, cookie or parameter with the name counts.

    Args:
        source: as :func:`check_source` returns it.

    Raises:
        BadShardKey: the key cannot be used.
    """
    kind, _, text = source.partition(":")
    name = text.encode()
    if kind == "query":
        value = _from_query(query, name)
    elif kind == "header":
        value = next((value for header, value in headers if header == name), None)
    else:
        value = _from_cookies(headers, name)
    return None if value is None else decode_key(value)


def decode_key(value: bytes) -> str:
    """Decode the bytes of a request's key.

    Raises:
        BadShardKey: not UTF-8, or over 256 bytes.
    """
    if len(value) > MAX_SHARD_KEY:
        raise BadShardKey(f"the shard key is over {MAX_SHARD_KEY} bytes")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadShardKey("the shard key is not UTF-8") from None


def _from_query(query: bytes, name: bytes) -> bytes | None:
    for field in query.split(b"&"):
        field_name, _, value = field.partition(b"=")
        if unquote_to_bytes(field_name.replace(b"+", b" ")) == name:
            return unquote_to_bytes(value.replace(b"+", b" "))
    return None


def _from_cookies(headers: list[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    for header, value in headers:
        if header == b"cookie":
            for pair in value.split(b";"):
                cookie, there, content = pair.partition(b"=")
                if there and cookie.strip() == name:
                    content = content.strip()
                    return content[1:-1] if len(content) > 1 and content[:1] == content[-1:] == b'"' else content
    return None
