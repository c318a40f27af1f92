"""The model without a server, called in full batches and then one by one; prints both as JSON.

Usage: direct.py SECONDS
"""

from __future__ import annotations

import json
import sys
from statistics import median
from time import perf_counter

from batchmodel import MAX_BATCH, compute

SINGLES = 100


def main(seconds: float) -> None:
    batches = 0
    began = perf_counter()
    while perf_counter() - began < seconds:
        compute(MAX_BATCH)
        batches += 1
    items_per_s = batches * MAX_BATCH / (perf_counter() - began)
    singles = []
    for _ in range(SINGLES):
        began = perf_counter()
        compute(1)
        singles.append(perf_counter() - began)
    print(json.dumps({"items_per_s": items_per_s, "one_ms": 1000 * median(singles)}))


if __name__ == "__main__":
    main(float(sys.argv[1]))
