"""The replica that this process is, and the call that user code runs for.

The replica's main function sets the replica once, before user code is imported. ``client.connect`` reads it to attach
to the instance that owns the replica.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import NamedTuple, Protocol

from pointsman.exceptions import ServeException


class ReplicaContext(NamedTuple):
    """A replica's identity, and how it reaches its controller.

    Attributes:
        backend, replica: their tags.
        instance: the instance's id.
        control_path: the controller's address.
        grant: the client token, with which user code's own clients and handles authenticate.
        grant_identity: the replica's number, as the holder of that token.
        request_timeout_s: the instance's deadline for requests, in seconds.
    """

    backend: str
    replica: str
    instance: str
    control_path: str
    grant: bytes
    grant_identity: str
    request_timeout_s: float


class Cancellable(Protocol):
    def cancel(self) -> object: ...


class Releases(Protocol):
    """What keeps models: :class:`pointsman.multiplexing.host.Host`."""

    def release(self, model_id: str) -> None: ...


class UsedModels:
    """The models of one call, or of the members of one batch.

    Args:
        id: of the model that the caller has named; empty if it named none.
        holders: how many calls there are. Models are kept until each of them has ended.

    Attributes:
        cache: what keeps the model of that id for the call; None before it does, and where nothing does.
    """

    # hot: the model that a call names is kept without a dict

    __slots__ = ("_holders", "_others", "cache", "id")

    def __init__(self, id: str = "", holders: int = 1) -> None:  # noqa: A002 - what it is
        self.id = id
        self.cache: Releases | None = None
        self._holders = holders
        self._others: dict[tuple[Releases, str], None] | None = None

    def keep(self, cache: Releases, model_id: str) -> bool:
        """Keep a model, which is released when the calls have ended. False if it is kept already, or they have ended:
        then nothing has changed. Any thread."""
        if self.keeps(cache, model_id):
            return False
        if self._others is None:
            self._others = {}
        self._others[cache, model_id] = None
        # The calls may have ended meanwhile, while user code runs on a thread of its own. Who takes it out releases it.
        return bool(self._holders) or self._others.pop((cache, model_id), self) is self

    def keeps(self, cache: Releases, model_id: str) -> bool:
        """Whether a model is kept."""
        if cache is self.cache and model_id == self.id:
            return True
        return self._others is not None and (cache, model_id) in self._others

    def end(self) -> None:
        """One of the calls has ended, and no code of it runs any more."""
        self._holders -= 1
        if self._holders:
            return
        cache, self.cache = self.cache, None
        if cache is not None:
            cache.release(self.id)
        while self._others:
            (cache, model_id), _ = self._others.popitem()
            cache.release(model_id)


class CallScope:
    """The context of one call of user code: what the calls that it makes inherit, and which of those are under way.

    Args:
        deadline: in seconds of ``time.monotonic``; infinite once the answer has begun to stream.
        request_id: empty if the caller gave none.
        headers: headers of the request; inner calls get the tracing headers.
        callers: number of callers that wait for the answer; more than one for a batch.
        request_ids: request ids of all members of a batch; empty for a single call.

    Attributes:
        models: what models the call uses; None if it names none, and its backend loads none.
    """

    __slots__ = ("_callers", "_inner", "deadline", "headers", "models", "request_id", "request_ids")

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
        self.models: UsedModels | None = None
        self._callers = callers
        self._inner: set[Cancellable] | None = None  # made with the first inner call; most calls make none

    def without_deadline(self) -> CallScope:
        """A scope for an answer that has begun to stream, which has no deadline. Shares the calls under way."""
        scope = CallScope(float("inf"), self.request_id, self.headers)
        scope.models = self.models
        if self._inner is None:
            self._inner = set()
        scope._inner = self._inner
        return scope

    def adopt(self, call: Cancellable) -> None:
        """Register an inner call, which is to be cancelled with this one; :meth:`release` it when it is over."""
        if self._inner is None:
            self._inner = set()
        self._inner.add(call)

    def release(self, call: Cancellable) -> None:
        if self._inner is not None:
            self._inner.discard(call)

    def give_up(self) -> None:
        """A caller has gone. When the last one has, cancel the inner calls under way."""
        self._callers -= 1
        if not self._callers and self._inner is not None:
            for call in list(self._inner):
                call.cancel()


#: Set while user code runs for a call: per thread in sync code, per task in async code.
call_scope: ContextVar[CallScope | None] = ContextVar("pointsman_call_scope", default=None)

#: Tags of backend and replica that user code sees in a replica without a process.
memory_tags: ContextVar[tuple[str, str] | None] = ContextVar("pointsman_memory_tags", default=None)

_current: ReplicaContext | None = None
_in_trial_import = False


def begin_trial_import() -> None:
    """Declare that this process loads code for validation only."""
    global _in_trial_import
    _in_trial_import = True


def in_trial_import() -> bool:
    """True while code is loaded for validation only; unpickled handles then get no credentials."""
    return _in_trial_import


def set_replica_context(context: ReplicaContext | None) -> None:
    global _current
    _current = context


def replica_context() -> ReplicaContext | None:
    """The replica that this process is; None in other processes."""
    return _current


def get_current_backend_tag() -> str:
    """Tag of the backend that this code serves.

    Returns:
        The tag, as it was given to ``create_backend`` or ``deploy``.

    Raises:
        ServeException: called outside a replica.
    """
    return _tags("get_current_backend_tag")[0]


def get_current_replica_tag() -> str:
    """Tag of this replica, ``<backend>#<6 letters>``; split it at the last ``#``.

    Returns:
        The tag, which no other replica has.

    Raises:
        ServeException: called outside a replica.
    """
    return _tags("get_current_replica_tag")[1]


def get_multiplexed_model_id() -> str:
    """Id of the model that the caller of this request has named, by the HTTP header ``serve_multiplexed_model_id`` or
    by ``handle.options(multiplexed_model_id=...)``; empty if it named none, and outside of a request. All requests of a
    batch have the same.

    Returns:
        The id; the empty string for a call without one.

    Raises:
        ServeException: called outside a replica.
    """
    scope = call_scope.get()
    if scope is None:
        _tags("get_multiplexed_model_id")
        return ""
    return scope.models.id if scope.models is not None else ""


def _tags(asker: str) -> tuple[str, str]:
    tags = (_current.backend, _current.replica) if _current is not None else memory_tags.get()
    if tags is None:
        raise ServeException(f"{asker}() works only inside a backend")
    return tags
