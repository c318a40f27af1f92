"""API keys: as users write them, and as they are kept.

A key is kept as its SHA-256 alone. Keys are long and random (users are told so), so a slow hash would add nothing, and
a dict from digests finds a key: what its look-up takes depends on the digest, which nobody can choose bit by bit.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from pointsman.arguments import check_object_name, nearest

MAX_KEY = 4096
MAX_KEY_NAME = 128
MIN_RATE, MAX_COUNT = 1e-6, 10**9
"""Least rate: a request in eleven days. Most of what is counted: more is beyond any server, and what is far more is
beyond the numbers of the cells that count."""
_KEY = re.compile(r"[!-~]+")
_NAME = re.compile(r"[!-~](?:[ -~]*[!-~])?")


class KeySpec(msgspec.Struct, frozen=True, array_like=True):
    """A key, as it is kept.

    Attributes:
        digest: of the key.
        endpoints: those that it opens; None for all of them.
        rate: requests per second, on each node; None for any number.
        burst: requests that may come at once.
        max_in_flight: requests that may be under way at the same time, on each node; None for any number.
    """

    name: str
    digest: bytes
    endpoints: tuple[str, ...] | None = None
    rate: float | None = None
    burst: int = 1
    max_in_flight: int | None = None

    def __repr__(self) -> str:
        return f"KeySpec(name={self.name!r})"


def digest_of(key: bytes) -> bytes:
    """The form in which a key is kept."""
    return hashlib.sha256(key).digest()


def is_key(text: str) -> bool:
    """Whether a text can be a key, or a token: 1-4096 printable ASCII characters without blanks."""
    return len(text) <= MAX_KEY and _KEY.fullmatch(text) is not None


class ApiKey:
    """A key that opens an instance's HTTP port, for ``start(api_keys=[...])``.

    Only its hash is kept. Make keys with ``secrets.token_urlsafe(32)``: a key that can be guessed can also be found
    from its hash.

    Args:
        name: whose key it is: 1-128 printable ASCII characters. User code gets it as the header ``x-serve-key-name``.
        key: what clients send: 1-4096 printable ASCII characters without blanks.
        endpoints: names of the endpoints that it opens; None for all. They need not exist yet.
        rate: requests per second and node; more get 429. None for any number.
        burst: requests that may come at once; the rate, rounded up, where it is not given.
        max_in_flight: requests under way at the same time, per node; more get 429. None for any number.

    Raises:
        ValueError: a value that is empty, too long or out of range; the key is never in the text.
        TypeError: a value of another type.
    """

    __slots__ = ("spec",)

    spec: KeySpec

    def __init__(
        self,
        name: str,
        key: str,
        *,
        endpoints: Iterable[str] | None = None,
        rate: float | None = None,
        burst: int | None = None,
        max_in_flight: int | None = None,
    ) -> None:
        _check_key_name(name)
        whose = f"API key {name!r}"
        self.spec = KeySpec(
            name,
            digest_of(_check_key(key, whose)),
            _check_endpoints(endpoints, whose),
            _check_rate(rate, whose),
            _check_burst(burst, rate, whose),
            None if max_in_flight is None else _check_count(max_in_flight, f"max_in_flight of {whose}"),
        )

    def __repr__(self) -> str:
        return f"ApiKey({self.spec.name!r})"


def specs_of(keys: Any) -> tuple[KeySpec, ...]:
    """The kept form of a list of keys.

    Raises:
        TypeError: it is no list of ApiKey.
        ValueError: it is empty, or a name or a key is in it twice.
    """
    if not isinstance(keys, (list, tuple)):
        raise TypeError(f"api_keys must be a list of ApiKey or the path of a file, not a {type(keys).__name__}")
    for number, key in enumerate(keys):
        if key is None:
            raise ValueError(f"item {number} of api_keys is None; give a serve.ApiKey")
        if not isinstance(key, ApiKey):
            raise TypeError(f"item {number} of api_keys must be a serve.ApiKey, not a {type(key).__name__}")
    return check_specs([key.spec for key in keys])


def specs_in(content: Any) -> tuple[KeySpec, ...]:
    """The kept form of ``{name: {"key": ..., "rate": ...}}``, as it stands in a file.

    Raises:
        TypeError, ValueError: as ApiKey and :func:`specs_of`.
    """
    if not isinstance(content, Mapping):
        raise ValueError('it must be an object of objects: {"name": {"key": "..."}}')
    specs = []
    for name, fields in content.items():
        if not isinstance(fields, Mapping):
            raise ValueError(f'API key {name!r} must be an object: {{"key": "..."}}')
        unknown = [field for field in fields if field not in _FIELDS]
        if unknown:
            raise ValueError(f"API key {name!r} has no field {unknown[0]!r}{nearest(unknown[0], _FIELDS)}")
        specs.append(ApiKey(name, **{"key": None, **fields}).spec)
    return check_specs(specs)


def check_specs(specs: list[KeySpec]) -> tuple[KeySpec, ...]:
    """Raises ValueError: there is none, or two have one name, or two are one key."""
    if not specs:
        raise ValueError("there is no API key; leave api_keys out to ask for none")
    names: set[str] = set()
    owners: dict[bytes, str] = {}
    for spec in specs:
        if spec.name in names:
            raise ValueError(f"two API keys are named {spec.name!r}; give each a name of its own")
        if spec.digest in owners:
            raise ValueError(f"API keys {owners[spec.digest]!r} and {spec.name!r} are the same; make one for each")
        names.add(spec.name)
        owners[spec.digest] = spec.name
    return tuple(specs)


_FIELDS = ("key", "endpoints", "rate", "burst", "max_in_flight")


def _check_key_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"the name of an API key must be a str, not a {type(name).__name__}")
    if len(name) > MAX_KEY_NAME or not _NAME.fullmatch(name):
        shown = repr(name) if len(name) <= MAX_KEY_NAME else f"{name[:20]!r}..."
        raise ValueError(f"the name {shown} of an API key must be 1-{MAX_KEY_NAME} printable ASCII characters")


def _check_key(key: Any, whose: str) -> bytes:
    """The key is not shown: an error's text ends up in logs."""
    if key is None:
        raise ValueError(f"{whose} has no key: it is None; make one with secrets.token_urlsafe(32)")
    if not isinstance(key, str):
        raise TypeError(f"the key of {whose} must be a str, not a {type(key).__name__}")
    if not key:
        raise ValueError(f"the key of {whose} is empty; make one with secrets.token_urlsafe(32)")
    if len(key) > MAX_KEY:
        raise ValueError(f"the key of {whose} has {len(key)} characters, over the limit of {MAX_KEY}")
    if not _KEY.fullmatch(key):
        raise ValueError(f"the key of {whose} must be printable ASCII characters without blanks")
    return key.encode("ascii")


def _check_endpoints(endpoints: Any, whose: str) -> tuple[str, ...] | None:
    if endpoints is None:
        return None
    if isinstance(endpoints, str) or not isinstance(endpoints, Iterable):
        raise TypeError(f"endpoints of {whose} must be a list of names, not {endpoints!r}")
    return tuple(check_object_name(name, f"an endpoint of {whose}") for name in endpoints)


def _check_rate(rate: Any, whose: str) -> float | None:
    if rate is None:
        return None
    if isinstance(rate, bool) or not isinstance(rate, (int, float)):
        raise TypeError(f"rate of {whose} must be a number, not {rate!r}")
    if not MIN_RATE <= rate <= MAX_COUNT:
        raise ValueError(
            f"rate {rate!r:.30} of {whose} must be from {MIN_RATE:g} to {MAX_COUNT:g} requests per second; None for any"
        )
    return float(rate)


def _check_burst(burst: Any, rate: float | None, whose: str) -> int:
    if burst is None:
        return 1 if rate is None else math.ceil(rate)
    if rate is None:
        raise ValueError(f"{whose} has a burst of {burst!r} and no rate; give the rate too")
    return _check_count(burst, f"burst of {whose}")


def _check_count(count: Any, what: str) -> int:
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"{what} must be an int, not {count!r}")
    if not 1 <= count <= MAX_COUNT:
        raise ValueError(f"{what} is {count!r:.30}, but must be from 1 to {MAX_COUNT}")
    return count
