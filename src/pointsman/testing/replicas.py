"""Replicas in memory: the real runtime around user code, or one whose answers a test chooses.

    Router -> RemoteReplica -> dial -> MemoryNetwork -> Stream -> MemoryReplica (runtime) | ScriptedReplica (the test)

Used by tests under :func:`~pointsman.testing.virtual_time.run`, on its loop's network.
"""

from __future__ import annotations

import contextlib
import itertools
from types import TracebackType
from typing import Any

from pointsman.model import (
    ReplicaConfig,
    ReplicaRef,
)
from pointsman.replica.failurelog import FailureLog
from pointsman.replica.metrics import NO_METRICS, ReplicaMetrics
from pointsman.replica.runtime import Runtime
from pointsman.replica.usercontext import MakeThread, own_thread
from pointsman.testing.networks import MemoryServer
from pointsman.testing.pipes import Pipe
from pointsman.testing.virtual_time import virtual_loop
from pointsman.usercode.callables import is_async
from pointsman.usercode.mounting import Mounted
from pointsman.usercode.packing import DEFAULT_METHOD, inspect_code, pack_code
from pointsman.wire.stream import StreamUser, acceptor

INSTANCE = "memory"
"""Id of the instance that replicas in memory belong to."""
KEY = b"k" * 32

_numbers = itertools.count(1)


class Listening:
    """Base of both kinds: a number, an address, and connections."""

    def __init__(self, backend: str) -> None:
        number = next(_numbers)
        self.ref = ReplicaRef(number, f"{backend}#{number:06d}", f"memory/r/{number}", KEY)
        self.server: MemoryServer | None = None
        self.api = b""

    @property
    def pipes(self) -> list[Pipe]:
        """All connections to this replica so far."""
        return self.server.pipes if self.server is not None else []

    def listen(self, user: StreamUser) -> None:
        """Accept routers.

        Args:
            user: gets what routers send.
        """
        accept = acceptor(user, instance=INSTANCE, key_for=lambda role, identity: KEY)
        self.server = virtual_loop().network.listen(self.ref.address, accept)

    def die(self) -> None:
        """Behave like a killed process: stop listening, and break all connections."""
        if self.server is not None:
            self.server.close()
            for pipe in self.server.pipes:
                pipe.cut()


class MemoryReplica(Listening):
    """User code in a real replica runtime, in this process.

    Args:
        function_or_class: the backend's code.
        init_args: positional arguments of the class.
        config: limits and batching.
        backend: tag of its backend.
        metrics: records its metrics.
        failures: log of exceptions of user code.
        travels: whether the code is packed and unpacked, as it is on its way to a process; otherwise the very objects
            are used.
        make_thread: makes the thread of sync user code.

    Attributes:
        ref: its number, tag and address, as in a routing table.
        server: where it listens; None before it does.
        api: what its code takes, packed.

    An asynchronous context manager; the replica listens inside. Sync code runs on a thread, which has no virtual time:

    while a replica of such code is open, the clock advances in real time.
    """

    def __init__(
        self,
        function_or_class: Any,
        *init_args: Any,
        config: ReplicaConfig | None = None,
        backend: str = "b",
        metrics: ReplicaMetrics = NO_METRICS,
        failures: FailureLog | None = None,
        travels: bool = True,
        make_thread: MakeThread = own_thread,
    ) -> None:
        super().__init__(backend)
        self._metrics = metrics
        self._failures = failures
        self._make_thread = make_thread
        self._traits = inspect_code(function_or_class, init_args)
        self.api, self.surface = self._traits.api, self._traits.surface
        self._code = pack_code(function_or_class, init_args) if travels else (function_or_class, init_args)
        self._is_async = runs_on_loop(function_or_class) and not self._traits.multiplexed  # loads have threads
        self._config = config or ReplicaConfig()
        self._open = contextlib.ExitStack()
        self._runtime: Runtime | None = None

    @property
    def runtime(self) -> Runtime:
        """The runtime that has the user code, once the replica is open."""
        assert self._runtime is not None, "the replica is not open"
        return self._runtime

    async def __aenter__(self) -> MemoryReplica:
        loop = virtual_loop()
        if not self._is_async:
            self._open.enter_context(loop.real_time())
        self._runtime = Runtime(
            self._config, metrics=self._metrics, failures=self._failures, make_thread=self._make_thread
        )
        with loop.real_time():  # constructors run on a thread, also of async code
            try:
                await self._runtime.load_code(self._code, self._traits)
            except BaseException:
                await self._runtime.release_code()
                raise
        self.listen(self._runtime)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.die()
        self._open.close()


def runs_on_loop(code: Any) -> bool:
    """Whether the calls of a function or class run on the event loop, and not on a thread."""
    if isinstance(code, Mounted):
        return True
    function = getattr(code, DEFAULT_METHOD, None) if isinstance(code, type) else code
    return is_async(function)
