"""Operations on shadows whose answers are compared: what came of it, and examples of answers that do not match."""

from __future__ import annotations

import json
from typing import Any

from pointsman import arguments
from pointsman.client.operations import Operations, new_id
from pointsman.comparing.comparers import MAX_KEEP
from pointsman.comparing.report import RouteCounts, ShadowCounts, make_report
from pointsman.stats.checking import check_count, check_number
from pointsman.stats.rates import RateGate
from pointsman.telemetry.pairs import MATCHED, MISMATCHED, RATIO, UNCOMPARED
from pointsman.wire.messages import unpack
from pointsman.wire.pairs import DROPPED
from pointsman.wire.shadows import PairCount, QueryExamples, QueryShadow, ShadowView


class ShadowOperations(Operations):
    """Says what came of comparing shadows' answers; changes nothing."""

    def shadow_report(self, endpoint: str, backend: str) -> dict[str, Any]:
        """What came of comparing a shadow's answers with those that users got, since the comparison or the code on
        either side was last changed.

        Args:
            endpoint: name of the endpoint.
            backend: the shadow.

        Returns:
            ``since`` (ISO 8601 in UTC); ``pairs``, ``matched`` and ``mismatched``; ``by_kind``, the mismatches by kind;
            ``by_route``, ``{"pairs", "mismatched"}`` by route; ``uncompared``, by reason; ``dropped``, copies that were
            not sent; ``mismatch_rate``, ``{"value", "low", "high"}``, an interval that holds at all times at once;
            ``noise``, ``{"pairs", "mismatched", "rate"}`` of second copies, and ``above_noise``, ``{"e", "needed",
            "tripped"}``, whether the shadow mismatches more often than that, both None with ``noise=0``; ``latency``,
            ``{"pairs", "median_ratio": {"value", "low", "high"}}``: how many times as long as the user's the shadow's
            answer took. Copies wait behind users' calls, so this says more where replicas are not busy.

        Raises:
            TypeError, ValueError: a name is none, there is no such endpoint, or it has no such shadow that compares.
        """
        which = self._shadow_named(endpoint, backend)
        self._check_alive()
        view = unpack(self._session.command(QueryShadow(new_id(), *which)), ShadowView)
        gate = RateGate.from_state(view.gate) if view.gate is not None else None
        return make_report(counts_of(view.counts), since=view.since, gate=gate)

    def shadow_examples(self, endpoint: str, backend: str, limit: int = 10) -> list[dict[str, Any]]:
        """Examples of a shadow's answers that do not match, the worst first.

        Args:
            endpoint: name of the endpoint.
            backend: the shadow.
            limit: how many at most, 1 or more; ``keep`` of :meth:`shadow_traffic` says how many there can be.

        Returns:
            For each ``{"request_id", "route", "kind", "where", "score", "primary", "shadow"}``: ``where`` is the path
            of the first difference, ``score`` from 0, nothing in common, to 1; each answer has ``status`` and ``body``.

        Raises:
            TypeError, ValueError: ``limit`` is none; and as of :meth:`shadow_report`.
        """
        which = self._shadow_named(endpoint, backend)
        if check_number(limit, "limit") < 1:
            raise ValueError(f"limit must be 1 or more, not {limit!r}")
        most = min(check_count(limit, "limit"), MAX_KEEP)
        self._check_alive()
        found = bytes(self._session.command(QueryExamples(new_id(), *which, most)))
        examples: list[dict[str, Any]] = json.loads(found)
        return examples

    @staticmethod
    def _shadow_named(endpoint: str, backend: str) -> tuple[str, str]:
        name = arguments.check_object_name(endpoint, "endpoint")
        return name, arguments.check_object_name(backend, "backend")


def counts_of(counts: tuple[PairCount, ...]) -> ShadowCounts:
    """The counts in the form that reports are made of."""
    found = ShadowCounts()
    for one in counts:
        if one.noise:
            found.noise_pairs += one.count * (one.what in (MATCHED, MISMATCHED))
            found.noise_mismatched += one.count * (one.what == MISMATCHED)
        elif one.what in (MATCHED, MISMATCHED):
            _add_pairs(found, one)
        elif one.what == RATIO:
            found.ratios[int(one.detail)] = one.count
        elif one.what == UNCOMPARED and one.detail == DROPPED:
            found.dropped += one.count
        elif one.what == UNCOMPARED:
            found.uncompared[one.detail] = one.count
    return found


def _add_pairs(found: ShadowCounts, one: PairCount) -> None:
    route = found.by_route.setdefault(one.route, RouteCounts())
    for total in (found, route):
        total.pairs += one.count
        total.mismatched += one.count * (one.what == MISMATCHED)
    if one.what == MISMATCHED:
        found.by_kind[one.detail] = found.by_kind.get(one.detail, 0) + one.count
