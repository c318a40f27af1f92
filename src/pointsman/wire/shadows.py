"""Commands about shadows whose answers are compared. Schemas; no I/O. Part of ``commands``."""

from __future__ import annotations

from typing import Any

import msgspec

from pointsman.wire.messages import Command


class QueryShadow(Command, frozen=True, tag="query_shadow"):
    """Read what has come of comparing a shadow's answers; the reply is a :class:`ShadowView`. It is a ValueError if the
    endpoint has no such shadow, or its answers are not compared.

    Attributes:
        endpoint: name of the endpoint.
        backend: the shadow.
    """

    endpoint: str
    backend: str


class QueryExamples(Command, frozen=True, tag="query_examples"):
    """Read examples of answers that do not match, the worst first; the reply is a list of them in JSON. Errors as of
    :class:`QueryShadow`.

    Attributes:
        limit: how many, 1 or more.
    """

    endpoint: str
    backend: str
    limit: int = 10


class PairCount(msgspec.Struct, frozen=True, array_like=True):
    """A count of :mod:`pointsman.telemetry.pairs`, added up over the backends that answer users."""

    noise: bool
    route: str
    what: str
    detail: str
    count: int


class NoiseView(msgspec.Struct, frozen=True):
    """Whether a shadow mismatches more often than the endpoint's backend does with itself.

    Attributes:
        e: the evidence that it does; it begins at 1.
        needed: it is believed when ``e`` reaches that.
    """

    e: float
    needed: float
    tripped: bool


class ShadowView(msgspec.Struct, frozen=True):
    """What has come of comparing a shadow's answers.

    Attributes:
        since: when this comparison of this code began, ISO 8601 in UTC.
        gate: the state of the RateGate that holds mismatches against noise; None where no second copies go to the
            endpoint's own backend.
    """

    since: str
    counts: tuple[PairCount, ...]
    gate: dict[str, Any] | None
