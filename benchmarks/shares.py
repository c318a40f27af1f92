"""Whether backends get the shares that their weights promise: counted answers beside weights, by a chi-square test."""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import Iterator

import msgspec
from openloop import Connection, is_ok, request_to

CONNECTIONS = 100
REQUESTS = 20_000
TIMEOUT_S = 120.0
ID_PREFIX = 10
"""Characters of a request id that name the ingress process; the rest is a number."""

_BACKEND = re.compile(rb"\r\nx-serve-backend: *(\S+)", re.IGNORECASE)
_REQUEST_ID = re.compile(rb"\r\nx-serve-request-id: *(\S+)", re.IGNORECASE)


class Shares(msgspec.Struct, frozen=True):
    """Answers counted by backend.

    Attributes:
        keyed: every request had a shard key of its own; otherwise none had one.
        counted: answers by backend.
        by_ingress: of each ingress process, likewise.
        chi_square: sum over the backends of (counted - expected)^2 / expected.
        p: probability of a chi-square that large where the weights are kept.
    """

    keyed: bool
    counted: dict[str, int]
    by_ingress: list[dict[str, int]]
    not_ok: int
    chi_square: float
    p: float


def measure(port: int, path: str, weights: dict[str, float], *, keyed: bool) -> Shares:
    return asyncio.run(asyncio.wait_for(_measure(port, path, weights, keyed=keyed), TIMEOUT_S))


async def _measure(port: int, path: str, weights: dict[str, float], *, keyed: bool) -> Shares:
    loop = asyncio.get_running_loop()
    by_ingress: dict[bytes, Counter[str]] = {}
    requests = _requests(path, keyed=keyed)
    done: asyncio.Future[None] = loop.create_future()
    answers = not_ok = 0

    def answered(connection: Connection, head: bytes) -> None:
        nonlocal answers, not_ok
        answers += 1
        backend, request_id = _BACKEND.search(head), _REQUEST_ID.search(head)
        if is_ok(head) and backend and request_id:
            by_ingress.setdefault(request_id[1][:ID_PREFIX], Counter())[backend[1].decode()] += 1
        else:
            not_ok += 1
        following = next(requests, None)
        if following is not None:
            connection.send(following)
        elif answers == REQUESTS:
            done.set_result(None)

    connections = []
    for _ in range(CONNECTIONS):
        _, connection = await loop.create_connection(lambda: Connection(answered), "127.0.0.1", port)
        connections.append(connection)
        connection.send(next(requests))
    await done
    for connection in connections:
        connection.close()
    counted = sum(by_ingress.values(), Counter[str]())
    chi_square = chi_square_of(counted, weights)
    return Shares(
        keyed,
        dict(counted),
        [dict(c) for c in by_ingress.values()],
        not_ok,
        chi_square,
        upper_tail(chi_square, weights),
    )


def _requests(path: str, *, keyed: bool) -> Iterator[bytes]:
    for number in range(REQUESTS):
        yield request_to(path, f"X-SERVE-SHARD-KEY: user-{number:06d}") if keyed else request_to(path)


def chi_square_of(counted: Counter[str], weights: dict[str, float]) -> float:
    total = counted.total()
    return sum((counted[tag] - weight * total) ** 2 / (weight * total) for tag, weight in weights.items())


def upper_tail(chi_square: float, weights: dict[str, float]) -> float:
    """For three backends, two degrees of freedom, where the tail of chi-square is an exponential."""
    assert len(weights) == 3
    return math.exp(-chi_square / 2)
