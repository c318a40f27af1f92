"""Examples of mismatches of one shadow on disk: the worst ones, bounded in number and bytes, readable to their owner
only. Written by the process that compares; read by whoever shows them, at the same time."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections import Counter
from typing import Any, NamedTuple

import msgspec

from pointsman.comparing.redaction import MAX_SIDE, Example

log = logging.getLogger(__name__)

MAX_BYTES = 16 * 1024 * 1024
"""Bytes of all examples of one shadow."""

_MOST_OF_ONE = 2 * MAX_SIDE + 16 * 1024
_BEING_WRITTEN = "new.tmp"
_FILE = re.compile(r"(\d\.\d{6})-(\d{12})-([a-z_]+)\.json")
"""The names sort by score and then by age."""


class _Kept(NamedTuple):
    score: float
    number: int
    kind: str

    @property
    def file(self) -> str:
        return f"{self.score:.6f}-{self.number:012d}-{self.kind}.json"


class ExampleStore:
    """The examples of one shadow in a folder of its own. One process writes to it.

    As many examples as ``keep`` are there at the most, and 16 MiB of them. When one comes that has no room, one is let
    go: of the kind with the most examples the one whose answers are most similar, and of these the newest. So a flood
    of one kind leaves the others, and an example that someone looks at stays.

    Args:
        folder: is made if it is missing; what it holds already counts.
        keep: how many, 0 or more.

    Raises:
        OSError: the folder cannot be made or read.
    """

    def __init__(self, folder: str, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self._sizes: dict[_Kept, int] = {}
        os.makedirs(folder, exist_ok=True)
        os.chmod(folder, 0o700)
        _remove(os.path.join(folder, _BEING_WRITTEN))
        for kept in _kept_in(folder):
            self._sizes[kept] = os.path.getsize(os.path.join(folder, kept.file))
        self._number = max((kept.number for kept in self._sizes), default=-1) + 1
        for kept in self._without_room(0):
            self._let_go(kept)

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self._sizes.values())

    def wants(self, kind: str, score: float) -> bool:
        """Whether an example of this kind and score would be kept. Whoever asks first need not make one in vain."""
        new = _Kept(round(score, 6), self._number, kind)
        return self._keep > 0 and new not in self._without_room(_MOST_OF_ONE, new)

    def add(self, example: Example) -> bool:
        """Keep an example, if it is among the worst.

        Returns:
            Whether it is kept.

        Raises:
            OSError: it cannot be written; nothing has changed.
        """
        new = _Kept(round(example.score, 6), self._number, example.kind)
        data = json.dumps(msgspec.structs.asdict(example)).encode()
        without = self._without_room(len(data), new)
        if new in without:
            return False
        path = os.path.join(self._folder, _BEING_WRITTEN)
        _write(path, data)
        for kept in without:
            self._let_go(kept)
        os.rename(path, os.path.join(self._folder, new.file))
        self._sizes[new] = len(data)
        self._number += 1
        return True

    def _without_room(self, size: int, new: _Kept | None = None) -> list[_Kept]:
        """Which examples have to go, perhaps the new one itself."""
        kept = sorted([*self._sizes, *([new] if new is not None else [])])
        kinds = Counter(one.kind for one in kept)
        total, without = self.size + size, []
        while len(kept) > self._keep or (kept and total > MAX_BYTES - _MOST_OF_ONE):
            most = max(kinds.values())
            victim = max(one for one in kept if kinds[one.kind] == most)
            kept.remove(victim)
            kinds[victim.kind] -= 1
            total -= self._sizes.get(victim, size)
            without.append(victim)
        return without

    def _let_go(self, kept: _Kept) -> None:
        del self._sizes[kept]
        _remove(os.path.join(self._folder, kept.file))


def read_examples(folder: str, limit: int = 10) -> list[dict[str, Any]]:
    """The examples in a folder, worst first: each a dict with the fields of :class:`Example`. One that is let go
    meanwhile is left out; there are none where there is no folder."""
    found: list[dict[str, Any]] = []
    for kept in sorted(_kept_in(folder)):
        if len(found) >= limit:
            break
        try:
            with open(os.path.join(folder, kept.file), encoding="utf-8") as file:
                found.append(json.load(file))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            log.warning("an example of a mismatch cannot be read and is left out: %s: %s", kept.file, error)
    return found


def remove_examples(folder: str) -> None:
    """Remove a folder with all its examples, if it is there.

    Raises:
        OSError: it cannot be removed.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass  # as wanted


def _kept_in(folder: str) -> list[_Kept]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    found = (_FILE.fullmatch(name) for name in names)
    return [_Kept(float(match[1]), int(match[2]), match[3]) for match in found if match]


def _write(path: str, data: bytes) -> None:
    """Write a new file that only its owner can read."""
    _remove(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError:
        _remove(path)
        raise


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # as wanted
