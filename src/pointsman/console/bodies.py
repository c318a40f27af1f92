"""Bodies of requests: what may be in them, and how they are read within limits."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from pointsman.client.scaling import HOLD_S
from pointsman.console.problems import Problem

MAX_BODY = 1024 * 1024
BODY_S = 30.0
"""How long a body may take to arrive."""

T = TypeVar("T")


class Fields(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Base of the bodies: a field that is unknown is refused."""


class Traffic(Fields, frozen=True):
    """Shares of an endpoint's calls, by backend: ``weights`` sum to 1, ``shadows`` are all that shall be. One of the
    two may miss, and stays as it is."""

    weights: dict[str, float] | None = None
    shadows: dict[str, float] | None = None


class Weights(Fields, frozen=True):
    """Shares of an endpoint's calls, by backend, that sum to 1."""

    weights: dict[str, float]


class ToVersion(Fields, frozen=True):
    """A version of an endpoint's traffic history; none means the one before the one in force."""

    version: int | None = None


class Pinned(Fields, frozen=True):
    """Shard keys, and the backend that is to answer them."""

    keys: list[str]
    backend: str


class Unpinned(Fields, frozen=True):
    """Shard keys about which the weights shall decide again; with ``backend`` those that are pinned to it."""

    keys: list[str]
    backend: str | None = None


class Held(Fields, frozen=True):
    """A number of replicas, and for how many seconds it is fixed."""

    replicas: int
    for_s: float = HOLD_S


class ConfigFile(msgspec.Struct, frozen=True):
    """A configuration file, as it was sent.

    Attributes:
        suffix: of its kind, such as ``.json``.
    """

    suffix: str
    data: bytes


SUFFIXES = {"application/json": ".json", "application/yaml": ".yaml", "application/toml": ".toml"}


async def read_body(request: Request, kind: type[T] | Any) -> T | Any:
    """The JSON of a request.

    Args:
        kind: the type that it must have.

    Raises:
        Problem: 400 for what is no JSON, 408, 413, 415; 422 for a field or value that is not so.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    taken = tuple(SUFFIXES) if kind is ConfigFile else ("application/json",)
    if media_type not in taken:
        given = f"not {media_type[:60]}" if media_type else "and has no Content-Type"
        raise Problem(415, f"the body must be {' or '.join(taken)}, {given}")
    data = await _data(request)
    if kind is ConfigFile:
        return ConfigFile(SUFFIXES[media_type], data)
    try:
        plain = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"the body is no JSON: {error}") from None
    try:
        return msgspec.convert(plain, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Problem(422, f"the body is not as openapi.json describes it: {error}") from None


async def _data(request: Request) -> bytes:
    """The body's bytes, as long as they are few and come soon."""
    given = request.headers.get("content-length", "0")
    if given.isdecimal() and int(given) > MAX_BODY:
        raise _too_large()
    data = bytearray()

    async def collect() -> None:
        async for part in request.stream():
            data.extend(part)
            if len(data) > MAX_BODY:
                raise _too_large()

    try:
        await asyncio.wait_for(collect(), BODY_S)
    except asyncio.TimeoutError:
        raise Problem(408, f"the body did not arrive within {BODY_S:g} s", {"connection": "close"}) from None
    except ClientDisconnect:
        raise Problem(400, "the body ended before it was whole") from None
    return bytes(data)


def _too_large() -> Problem:
    return Problem(413, f"the body is over {MAX_BODY} bytes (1 MiB)", {"connection": "close"})
