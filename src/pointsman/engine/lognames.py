"""Names of log files. A backend's name is a user's and may hold anything; none of it becomes part of a path but
letters, digits, ``_``, ``-`` and dots.

    replica-<backend>-<6 letters>.log     of the replica <backend>#<6 letters>
    replica-<what is left of it>~<hash>-<6 letters>.log     where that is not the whole name
"""

from __future__ import annotations

import hashlib
import re

import msgspec

REPLICA = "replica-"
LONGEST = 64
HASH_LENGTH = 12
CARD = ".card"
"""Suffix of the name of a file that says where a process writes, where that is not up to us."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


def name_of_backend(tag: str) -> str:
    """What stands for a backend in names of files; different for different backends, and harmless after a prefix."""
    safe = _UNSAFE.sub("_", tag)[:LONGEST]
    if safe == tag:
        return safe
    return f"{safe}~{hashlib.sha256(tag.encode('utf-8', 'surrogatepass')).hexdigest()[:HASH_LENGTH]}"


def name_of(role: str, number: int, label: str) -> str:
    """Name of a process's log file, less its suffix.

    Args:
        role: ``controller``, ``ingress`` or ``replica``.
        number: tells ingresses apart.
        label: of a replica its tag, ``<backend>#<6 letters>``.
    """
    if role != "replica":
        return role if role == "controller" else f"{role}-{number}"
    backend, _, letters = label.rpartition("#")
    return f"{REPLICA}{name_of_backend(backend)}-{_UNSAFE.sub('_', letters)[:LONGEST]}"


def backend_in(name: str) -> str:
    """What stands for the backend in the name of a log file, less its suffix; empty where it is no replica's."""
    return name[len(REPLICA) :].rpartition("-")[0] if name.startswith(REPLICA) else ""


class LogCard(msgspec.Struct, frozen=True):
    """What such a file says, as JSON.

    Attributes:
        path: of the log file.
        begins: how many bytes of it others have written before.
        source: whose it is: a replica's tag, or a role.
    """

    path: str
    begins: int
    source: str
