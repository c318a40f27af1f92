"""What the HTTP servers of a node share of each key that has limits: one small file per key, in shared memory, with the
cells of :mod:`lock.meters`. A server that begins counts none of its requests under way; an old one of its number may
have died with some.
"""

from __future__ import annotations

import array
import hashlib
import logging
import mmap
import os
import re
from collections.abc import Callable, MutableSequence
from pathlib import Path
from typing import cast

log = logging.getLogger("pointsman.ingress")

Cells = MutableSequence[float]
CELL_BYTES = 8


def shares_of(folder: Path, identity: str, processes: int) -> tuple[Callable[[str], Cells], int]:
    """What gives a key's cells by its name, and the number of this server on its node.

    Args:
        folder: of the files; made if it is missing.
        identity: of this server; the first number in it is that on its node.
        processes: number of servers on this node.
    """
    if processes == 1:
        return lambda name: array.array("d", [0.0, 0.0]), 0
    found = re.search(r"\d+", identity)
    own = int(found[0]) if found else 0
    return lambda name: _shared_cells(folder, name, own, processes), own


def _shared_cells(folder: Path, name: str, own: int, processes: int) -> Cells:
    size = (1 + processes) * CELL_BYTES
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / hashlib.sha256(name.encode()).hexdigest()[:32]
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, size)
            memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
    except OSError as error:
        log.error("API key %r has its limits in each HTTP server apart, not in all together: %s", name, error)
        return array.array("d", [0.0] * (1 + processes))
    cells = cast(Cells, memoryview(memory).cast("d"))
    cells[1 + own] = 0.0
    return cells
