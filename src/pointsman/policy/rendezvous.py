"""Maps shard keys to backends by weighted rendezvous hashing (decision 0010).

For each key every backend draws an exponentially distributed number with its weight as the rate; the smallest wins. The
numbers come from a hash, so the result depends on endpoint, key and weights alone: it is the same in every process and
on every machine. When weights change, only keys whose winner changes are moved.

Source: C. Schindelhauer and G. Schomaker, "Weighted distributed hash tables", SPAA 2005 (the logarithmic method), on
D. Thaler and C. V. Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM ToN 6 (1), 1998.

The formula is documented in docs/traffic/hash.md with example values, and must not change. A different one needs a new
HASH_VERSION, and the old one must remain for instances that use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from math import frexp, inf
from struct import Struct

HASH_VERSION = 1
LN_2 = 0.6931471805599453
SQRT_HALF = 0.7071067811865476

_uint64 = Struct(">Q")


class Rendezvous:
    """The mapping of keys to backends for one endpoint and one set of weights.

    Args:
        endpoint: its name; a key may belong to different backends of two endpoints.
        weights: by backend; a backend of weight 0 gets no key. Only the ratios matter.
    """

    __slots__ = ("_contenders",)

    def __init__(self, endpoint: str, weights: Mapping[str, float]) -> None:
        self._contenders = tuple(
            # hot: the hash of the part that all keys share is computed once, and copied for each key.
            (tag, weight, blake2b(f"{HASH_VERSION}\0{endpoint}\0{tag}\0".encode(), digest_size=8))
            for tag, weight in sorted(weights.items())
            if weight > 0
        )

    def owner(self, key: str) -> str:
        """The backend that a key belongs to; of two with equal numbers the first by name."""
        data = key.encode()
        least, owner = inf, self._contenders[0][0]
        for tag, weight, begun in self._contenders:
            number = _draw(begun, data, weight)
            if number < least:
                least, owner = number, tag
        return owner

    def numbers(self, key: str) -> dict[str, float]:
        """The number that each backend draws for a key."""
        data = key.encode()
        return {tag: _draw(begun, data, weight) for tag, weight, begun in self._contenders}


def _draw(begun: blake2b, data: bytes, weight: float) -> float:
    digest = begun.copy()
    digest.update(data)
    return minus_log(_uint64.unpack(digest.digest())[0]) / weight


def minus_log(bits: int) -> float:
    """``-ln((bits // 2**12 + 0.5) / 2**52)`` for a 64-bit number, to 1e-10.

    Uses only sums, products and quotients of doubles, which IEEE 754 rounds the same everywhere. The logarithms of C
    libraries differ in the last digit, and a difference there would move keys.
    """
    mantissa, exponent = frexp(((bits >> 12) + 0.5) * 2.0**-52)
    if mantissa < SQRT_HALF:
        mantissa *= 2.0
        exponent -= 1
    z = (mantissa - 1.0) / (mantissa + 1.0)
    q = z * z
    series = 1.0 + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0)))))
    return -(exponent * LN_2 + 2.0 * z * series)
