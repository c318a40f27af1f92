"""The model of ``batching.py``: a batch costs 5 ms, and each item in it 0.2 ms more.

Imported by the servers of every environment, so it needs the standard library only.
"""

from __future__ import annotations

import zlib
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
