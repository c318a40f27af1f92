"""Where am I: what user code inside a replica may ask about itself.

The replica's main function sets it once, before user code is imported. ``client.connect`` reads it too, to attach to
the instance that owns the replica.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import NamedTuple, Protocol

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


class Cancellable(Protocol):
    def cancel(self) -> object: ...


class CallScope:
    """What a call of user code hands on to the calls that it makes itself, and which of those are under way.

    Args:
        deadline: in the time of ``time.monotonic``; infinite once an answer has begun to stream.
        request_id: empty when the caller gave none.
        headers: of the request; those that tracing tools use to tie calls together are handed on.
        callers: how many wait for the answer: those of a batch.
        request_ids: of a batch, those of all its members; empty for a single call.
    """

    __slots__ = ("_callers", "_inner", "deadline", "headers", "request_id", "request_ids")

    def __init__(
        self,
        deadline: float,
        request_id: str,
        headers: Sequence[tuple[bytes, bytes]] = (),
        *,
        callers: int = 1,
        request_ids: Sequence[str] = (),
    ) -> None:
        self.deadline = deadline
        self.request_id = request_id
        self.headers = headers
        self.request_ids = request_ids
        self._callers = callers
        self._inner: set[Cancellable] | None = None

    def without_deadline(self) -> CallScope:
        """The same, for an answer that has begun and may take its time."""
        scope = CallScope(float("inf"), self.request_id, self.headers)
        if self._inner is None:
            self._inner = set()
        scope._inner = self._inner
        return scope

    def adopt(self, call: Cancellable) -> None:
        """A call is made within; :meth:`release` it when it is over."""
        if self._inner is None:
            self._inner = set()
        self._inner.add(call)

    def release(self, call: Cancellable) -> None:
        if self._inner is not None:
            self._inner.discard(call)

    def give_up(self) -> None:
        """A caller is gone. With the last one go the calls under way, which nobody waits for any more."""
        self._callers -= 1
        if not self._callers and self._inner is not None:
            for call in list(self._inner):
                call.cancel()


call_scope: ContextVar[CallScope | None] = ContextVar("pointsman_call_scope", default=None)
"""Set while user code runs for a call: per thread in sync code, per task in async code."""

_current: ReplicaContext | None = None
_in_trial_import = False


def begin_trial_import() -> None:
    """Say that this process only loads code, and calls nothing."""
    global _in_trial_import
    _in_trial_import = True


def in_trial_import() -> bool:
    """Whether handles that are loaded here may stay without a way to their instance, which they will not need."""
    return _in_trial_import


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
