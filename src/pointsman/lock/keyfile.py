"""API keys in a file that only its owner can read: ``{"name": {"key": "...", "rate": 10}}``."""

from __future__ import annotations

import json
import os
import stat
from typing import Any

from pointsman.lock.keys import KeySpec, specs_in

MAX_KEY_FILE = 4 * 1024 * 1024
Signature = tuple[int, ...]
"""Of a file's content: another one once it was written or replaced. Empty where there is no file."""


def signature_of(path: str) -> Signature:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def read_keys(path: str) -> tuple[KeySpec, ...]:
    """The keys in a file.

    Raises:
        ValueError: it cannot be read, others may read it, or it does not hold keys. The text names it, and no key.
    """
    try:
        return specs_in(json.loads(read_private(path), object_pairs_hook=_without_repeats))
    except json.JSONDecodeError as error:
        # Its own text may hold nothing of the file but a position. That of its cause is left out, too.
        raise ValueError(f"key file {path!r} is no JSON: line {error.lineno}, column {error.colno}") from None
    except UnicodeDecodeError:
        raise ValueError(f"key file {path!r} is not UTF-8") from None
    except RecursionError:
        raise ValueError(f"key file {path!r} holds something else than keys") from None
    except OSError as error:
        raise ValueError(f"key file {path!r} cannot be read: {error.strerror}") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"key file {path!r}: {error}") from None


def read_private(path: str) -> bytes:
    """What is in a file that only its owner can read.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no file, too large, or others can read or write it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no file")
        if found.st_mode & 0o077:
            raise ValueError(f"others may read or write it (mode {found.st_mode & 0o777:04o}); make that 0600")
        if found.st_size > MAX_KEY_FILE:
            raise ValueError(f"it takes {found.st_size} bytes, over the limit of {MAX_KEY_FILE}")
        return file.read(MAX_KEY_FILE + 1)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is in it twice")
    return made
