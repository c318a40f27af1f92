"""What was counted of calls, for people: percentiles within 2 %, with mean and count. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pointsman.model.evidence import SHADOW, Numbers, Tally, TallyKey, Window
from pointsman.stats.latency import quantile_bucket
from pointsman.telemetry.values import middle_of

PERCENTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
WINDOWS = {"10s": 10.0, "1m": 60.0, "10m": 600.0}
"""Windows that are shown, by name; ``policy`` comes after them: since the endpoint's traffic policy was changed."""
POLICY = "policy"


def quantile_s(tally: Tally, quantile: float) -> float | None:
    """A quantile of a tally's latencies in seconds, at most 1 % off; None without any."""
    if not tally.latencies:
        return None
    return middle_of(quantile_bucket(tally.latencies, quantile))


def latency_ms(tally: Tally) -> dict[str, float | None]:
    """Percentiles and mean of a tally's latencies in milliseconds, at most 1 % off, and their count."""
    count = sum(tally.latencies.values())
    values: dict[str, float | None] = {name: quantile_s(tally, q) for name, q in PERCENTILES.items()}
    values["mean"] = tally.seconds / count if count else None
    shown = {name: None if value is None else _rounded(1000.0 * value) for name, value in values.items()}
    return {**shown, "count": count}


def window_view(tally: Tally, seconds: float | None) -> dict[str, Any]:
    """What was counted in a window of so many seconds, as plain values."""
    return {
        "seconds": None if seconds is None else round(seconds, 1),
        "requests": tally.requests,
        "per_second": round(tally.requests / seconds, 2) if seconds else None,
        "errors": tally.errors,
        "latency_ms": latency_ms(tally),
    }


def add_numbers(stats: dict[str, Any], numbers: Numbers, before: Numbers | None = None) -> None:
    """Put what was counted into what ``Client.stats`` returns: ``windows`` for each endpoint, for each of its backends
    and shadows, and for each backend, and ``latency_ms`` in place of an estimate.

    Args:
        numbers: for :data:`WINDOWS`, and for all that is known.
        before: ``latency_ms`` is of what came after this.
    """
    _add_latencies(stats, numbers.windows[-1], before.windows[-1] if before is not None else None)
    keys = {key for window in numbers.windows for key in window.tallies} | numbers.policies.keys()
    for name, endpoint in stats["endpoints"].items():
        mine = [key for key in keys if key.endpoint == name]
        tags = sorted({key.backend for key in mine if key.kind != SHADOW})
        copies = sorted({key.backend for key in mine if key.kind == SHADOW})
        endpoint["windows"] = _views(numbers, Part(name))
        endpoint["backends"] = {tag: _views(numbers, Part(name, tag)) for tag in tags}
        endpoint["shadows"] = {tag: _views(numbers, Part(name, tag, shadow=True)) for tag in copies}
    for tag, backend in stats["backends"].items():
        backend["windows"] = _views(numbers, Part(backend=tag, shadow=None))


def endpoint_window(window: Window, endpoint: str) -> dict[str, Any]:
    """What was counted of an endpoint in a window, and of each of its backends."""
    tags = sorted({key.backend for key in window.tallies if key.endpoint == endpoint and key.kind != SHADOW})
    views = {tag: window_view(whole(window.tallies, Part(endpoint, tag)), window.seconds) for tag in tags}
    return {**window_view(whole(window.tallies, Part(endpoint)), window.seconds), "backends": views}


class Part(NamedTuple):
    """Which tallies are meant.

    Attributes:
        endpoint, backend: None for any.
        shadow: whether copies are meant, or all else; None for both.
    """

    endpoint: str | None = None
    backend: str | None = None
    shadow: bool | None = False

    def has(self, key: TallyKey) -> bool:
        """Whether a key is one of them."""
        return (
            self.endpoint in (None, key.endpoint)
            and self.backend in (None, key.backend)
            and self.shadow in (None, key.kind == SHADOW)
        )


def whole(tallies: Mapping[TallyKey, Tally], part: Part) -> Tally:
    """The sum of these tallies."""
    total = Tally()
    for key, tally in tallies.items():
        if part.has(key):
            total = total.plus(tally)
    return total


def _add_latencies(stats: dict[str, Any], now: Window, then: Window | None) -> None:
    tallies = now.tallies
    if then is not None:
        tallies = {key: tally.since(then.tallies.get(key, Tally())) for key, tally in tallies.items()}
    for name, endpoint in stats["endpoints"].items():
        endpoint["latency_ms"] = latency_ms(whole(tallies, Part(name)))
    for tag, backend in stats["backends"].items():
        backend["processing_ms"] = backend["latency_ms"]
        backend["latency_ms"] = latency_ms(whole(tallies, Part(backend=tag, shadow=None)))


def _views(numbers: Numbers, part: Part) -> dict[str, Any]:
    """The view of each window, and of the time since the policy of an endpoint was changed."""
    views = {
        name: window_view(whole(window.tallies, part), window.seconds)
        for name, window in zip(WINDOWS, numbers.windows, strict=False)
    }
    if part.endpoint is not None:
        views[POLICY] = window_view(whole(numbers.policies, part), numbers.policy_s.get(part.endpoint))
    return views


def _rounded(value: float) -> float:
    """To four digits: below 1 % nothing is known."""
    return float(f"{value:.4g}")
