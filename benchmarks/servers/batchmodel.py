"""The model of the batching scenarios: a batch costs 5 ms, and each item in it 0.2 ms more.

Imported by the servers of every environment, so it needs the standard library only. Run as a program it tells what the
model does without a server, in full batches and one by one. Usage: batchmodel.py SECONDS
"""

from __future__ import annotations

import json
import sys
import zlib
from statistics import median
from time import perf_counter

PER_BATCH_S, PER_ITEM_S = 0.005, 0.0002
MAX_BATCH = 32
CHUNK = b"x" * 99 + b"\n"
CHUNKS = 1000
_BLOCK = bytes(64 * 1024)


def compute(items: int) -> None:
    """Keep a core busy for as long as a batch of this size costs, by a clock on the wall."""
    end = perf_counter() + PER_BATCH_S + PER_ITEM_S * items
    while perf_counter() < end:
        pass


def compute_unlocked(items: int) -> None:
    """The same outside the interpreter's lock, as numpy and its like compute."""
    end = perf_counter() + PER_BATCH_S + PER_ITEM_S * items
    while perf_counter() < end:
        zlib.crc32(_BLOCK)


def main(seconds: float) -> None:
    batches, began = 0, perf_counter()
    while perf_counter() - began < seconds:
        compute(MAX_BATCH)
        batches += 1
    rate, singles = batches * MAX_BATCH / (perf_counter() - began), []
    for _ in range(100):
        began = perf_counter()
        compute(1)
        singles.append(1000 * (perf_counter() - began))
    print(json.dumps({"rate": rate, "one_ms": median(singles)}))


if __name__ == "__main__":
    main(float(sys.argv[1]))
