"""Which share of the shard keys a change of weights moves from one backend to another. Pure, and exact.

Each key has a number for each backend, exponentially distributed with rate 1, and belongs to the backend with the
smallest quotient of number and weight (:mod:`pointsman.policy.rendezvous`). So a key belongs to ``a`` before and to
``b`` afterwards with a probability that is an integral over these numbers, here in closed form.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from pointsman.policy.traffic import normalised

NOTHING = 1e-12
"""Shares up to this are errors of rounding."""


def flows(old: Mapping[str, float], new: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """The shares of all keys that move, by the backends from and to which they do, largest first.

    Args:
        old, new: weights by backend, each summing to 1.

    Raises:
        ValueError: as :func:`pointsman.policy.traffic.normalised`.
    """
    before, after = normalised(old), normalised(new)
    tags = [tag for tag in {**before, **after} if before.get(tag) or after.get(tag)]
    w = {tag: before.get(tag, 0.0) for tag in tags}
    v = {tag: after.get(tag, 0.0) for tag in tags}
    found = {(a, b): _share(a, b, w, v) for a in tags if w[a] for b in tags if b != a and v[b]}
    kept = {pair: share for pair, share in found.items() if share > NOTHING}
    return dict(sorted(kept.items(), key=lambda one: (-one[1], one[0])))


def _share(a: str, b: str, w: Mapping[str, float], v: Mapping[str, float]) -> float:
    """The share of keys that belong to ``a`` by the weights ``w`` and to another ``b`` by ``v``.

    With numbers x of ``a`` and t*x of ``b``, all others must be at least x * max(w_i/w_a, t * v_i/v_b), and t lies
    between w_b/w_a and v_b/v_a. The integral over x leaves 1 / (c + d*t)**2 over t, where c and d change where the
    maximum of one of the others does.
    """
    begin, end = w[b] / w[a], v[b] / v[a] if v[a] else inf
    if begin >= end:
        return 0.0
    others = [tag for tag in w if tag not in (a, b)]
    turns = sorted({t for i in others if v[i] and begin < (t := w[i] / w[a] * v[b] / v[i]) < end})
    total, low = 0.0, begin
    for high in (*turns, end):
        middle = (low + high) / 2 if high < inf else low + 1.0
        c = d = 1.0
        for i in others:
            still, grows = w[i] / w[a], v[i] / v[b]
            if still >= middle * grows:
                c += still
            else:
                d += grows
        total += _integral(c, d, low, high)
        low = high
    return total


def _integral(c: float, d: float, low: float, high: float) -> float:
    """Of 1 / (c + d*t)**2 over t."""
    first = c + d * low
    return 1.0 / (d * first) if high == inf else (high - low) / (first * (c + d * high))
