"""Where am I: what user code inside a replica may ask about itself.

The replica's main function sets it once, before user code is imported. ``client.connect`` reads it too, to attach to
the instance that owns the replica.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from pointsman.exceptions import ServeException


class ReplicaContext(NamedTuple):
    """One replica's identity and its way to the controller."""

    backend: str
    replica: str
    instance: str
    control_path: str
    grant: bytes
    grant_identity: str
    request_timeout_s: float


class CallScope(NamedTuple):
    """What a call of user code hands on to the calls that it makes itself.

    Attributes:
        deadline: in the time of ``time.monotonic``; infinite once an answer has begun to stream.
        request_id: empty when the caller gave none.
    """

    deadline: float
    request_id: str


call_scope: ContextVar[CallScope | None] = ContextVar("pointsman_call_scope", default=None)
"""Set while user code runs for a call: per thread in sync code, per task in async code."""

_current: ReplicaContext | None = None


def set_replica_context(context: ReplicaContext | None) -> None:
    global _current
    _current = context


def replica_context() -> ReplicaContext | None:
    """The replica that this process is, or None elsewhere."""
    return _current


def get_current_backend_tag() -> str:
    """Tag of the backend that this code serves.

    Raises:
        ServeException: called outside a replica.
    """
    if _current is None:
        raise ServeException("get_current_backend_tag() works only inside a backend")
    return _current.backend


def get_current_replica_tag() -> str:
    """Tag of this replica, ``<backend>#<6 letters>``; split it at the last ``#``.

    Raises:
        ServeException: called outside a replica.
    """
    if _current is None:
        raise ServeException("get_current_replica_tag() works only inside a backend")
    return _current.replica
