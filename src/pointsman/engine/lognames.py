"""The names of log files. Users choose the names of backends, so only letters, digits, ``_``, ``-`` and dots of them
become part of a path.

    replica-<backend>-<6 letters>.log            of the replica <backend>#<6 letters>
    replica-<changed name>~<hash>-<6 letters>.log    if the name had to be changed or cut
"""

from __future__ import annotations

import hashlib
import re

import msgspec

REPLICA = "replica-"
LONGEST = 64
HASH_LENGTH = 12
#: Suffix of a file that says where a process logs; used on Ray, which chooses the log files.
CARD = ".card"

_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]")


def name_of_backend(tag: str) -> str:
    """The part of a file name that stands for a backend: unique per backend, and safe in a path."""
    safe = _UNSAFE.sub("_", tag)[:LONGEST]
    if safe == tag:
        return safe
    return f"{safe}~{hashlib.sha256(tag.encode('utf-8', 'surrogatepass')).hexdigest()[:HASH_LENGTH]}"


def name_of(role: str, number: int, label: str) -> str:
    """The name of a process's log file, without its suffix.

    Args:
        role: ``controller``, ``ingress`` or ``replica``.
        number: of the ingress.
        label: the tag of a replica, ``<backend>#<6 letters>``.
    """
    if role != "replica":
        return role if role == "controller" else f"{role}-{number}"
    backend, _, letters = label.rpartition("#")
    return f"{REPLICA}{name_of_backend(backend)}-{_UNSAFE.sub('_', letters)[:LONGEST]}"


def backend_in(name: str) -> str:
    """The part for the backend in the name of a log file without its suffix; empty if it is not a replica's."""
    return name[len(REPLICA) :].rpartition("-")[0] if name.startswith(REPLICA) else ""


class LogCard(msgspec.Struct, frozen=True):
    """The content of such a file, as JSON.

    Attributes:
        path: of the log file.
        begins: the offset at which the process began to write.
        source: a replica's tag, or a role.
    """

    path: str
    begins: int
    source: str
