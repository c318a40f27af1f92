"""The bytes of requests, made before the run as far as they are alike."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

SHARD_KEY = "x-serve-shard-key"
"""The header by which an endpoint keeps a user on one backend, unless its policy names another."""
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
LATIN_1 = 0xFF
_OURS = ("host", "content-length", "transfer-encoding", "connection")


class Message(NamedTuple):
    """What is asked, each time.

    Attributes:
        headers: names and values; those that give length and host are added.
        keys: number of session keys, each as likely as another; 0 for none.
    """

    method: str
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    keys: int = 0


def check_method(method: str) -> str:
    """A method in capital letters.

    Raises:
        ValueError: it is none.
    """
    if not _TOKEN.fullmatch(method) or method.upper() == "CONNECT":
        raise ValueError(f"method {method!r} is none, such as GET or POST")
    return method.upper()


def parse_header(text: str) -> tuple[str, str]:
    """Name and value of ``NAME: VALUE``.

    Raises:
        ValueError: it is no header, or one that only the load itself can set.
    """
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not _TOKEN.fullmatch(name) or not value.isprintable():
        raise ValueError(f"header {text!r} is not NAME: VALUE, such as 'authorization: Bearer abc'")
    if any(ord(character) > LATIN_1 for character in value):
        raise ValueError(f"header {text!r} has a character that no header can have (ISO 8859-1)")
    if name.lower() in _OURS[1:]:
        raise ValueError(f"header {name!r} is set by the load itself; leave it out")
    return name, value


def check_keys(message: Message) -> None:
    """Two session keys in one request would mean nothing.

    Raises:
        ValueError: there are keys, and a header that gives one.
    """
    if message.keys and any(name.lower() == SHARD_KEY for name, _ in message.headers):
        raise ValueError(f"--keys sets the header {SHARD_KEY}, which --header sets too; leave one of them out")


def stream_of(message: Message, host: str, path: str, seed: int) -> Iterator[bytes]:
    """The bytes of one request after the other, without an end.

    Args:
        host: of the header ``host``, unless the message has one.
        path: with its query.
        seed: of the choice of keys.
    """
    names = {name.lower() for name, _ in message.headers}
    lines = [f"{message.method} {path} HTTP/1.1"]
    lines += [f"Host: {host}"] if "host" not in names else []
    lines += [f"{name}: {value}" for name, value in message.headers]
    lines += ["User-Agent: pointsman-load"] if "user-agent" not in names else []
    if message.body or message.method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(message.body)}")
    head = "\r\n".join(lines).encode("latin-1")
    end = b"\r\n\r\n" + message.body
    if not message.keys:
        return repeat(head + end)
    return _with_keys(head + f"\r\n{SHARD_KEY}: key-".encode(), end, message.keys, random.Random(seed))


def _with_keys(head: bytes, end: bytes, keys: int, chance: random.Random) -> Iterator[bytes]:
    while True:
        yield b"%s%d%s" % (head, int(chance.random() * keys), end)
