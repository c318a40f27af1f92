"""Replicas in memory: the real runtime around user code, or one whose answers a test chooses.

    Router -> RemoteReplica -> dial -> MemoryNetwork -> Stream -> MemoryReplica (runtime) | ScriptedReplica (the test)

Used by tests under :func:`~pointsman.testing.virtual_time.run`, on its loop's network.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from types import TracebackType
from typing import Any

from pointsman.incoming import RequestHead
from pointsman.model import (
    BackendRoute,
    EndpointSpec,
    Reason,
    ReplicaConfig,
    ReplicaRef,
    RoutingTable,
    TrafficPolicy,
)
from pointsman.replica.failurelog import FailureLog
from pointsman.replica.metrics import NO_METRICS, ReplicaMetrics
from pointsman.replica.runtime import Runtime
from pointsman.replica.usercontext import MakeThread, own_thread
from pointsman.routing.call import Call
from pointsman.routing.reply import Reply
from pointsman.testing.pipes import MemoryServer, Pipe
from pointsman.testing.virtual_time import virtual_loop
from pointsman.usercode.callables import is_async
from pointsman.usercode.mounting import Mounted
from pointsman.usercode.packing import DEFAULT_METHOD, inspect_code, pack_code
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.messages import AppCallHead, CreditHead, FailureHead, FreeHead, RefuseHead, ReplyHead, pack, unpack
from pointsman.wire.scaling import ModelsHead
from pointsman.wire.stream import Stream, StreamUser, acceptor

INSTANCE = "memory"
"""Id of the instance that replicas in memory belong to."""
KEY = b"k" * 32

_numbers = itertools.count(1)


class _Listening:
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


class MemoryReplica(_Listening):
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


class ScriptedReplica(_Listening):
    """A replica that does nothing by itself: the test reads ``calls`` and answers them.

    Args:
        backend: tag of its backend.
        held: models that it holds when routers connect.

    Attributes:
        calls: calls that are not answered yet, by call id, oldest first.
        arrived: all calls so far.
        bodies: their bodies.
        behind: what came behind a call: kind, head and body of its frames.
        cancelled: ids of calls that the router has cancelled.
        credits: the number of chunks that readers have granted.
        recalls: how often a router has recalled what has not begun.
        ref: its number, tag and address, as in a routing table.
        server: where it listens.
        api: empty.
    """

    def __init__(self, backend: str = "b", *, held: tuple[str, ...] = ()) -> None:
        super().__init__(backend)
        self._held = held
        self.calls: dict[int, AppCallHead] = {}
        self.behind: dict[int, list[tuple[int, bytes, bytes]]] = {}
        self.cancelled: list[int] = []
        self.arrived: list[AppCallHead] = []
        self.bodies: list[bytes] = []
        self.credits = 0
        self.recalls = 0
        self._last: Stream | None = None
        self._streams: dict[int, Stream] = {}
        self._connected: list[Stream] = []
        self.listen(self)

    def reply(
        self,
        call_id: int | None = None,
        body: bytes = b"ok",
        *,
        status: int = 200,
        load: int = 0,
        stream: bool = False,
        headers: list[tuple[bytes, bytes]] | None = None,
        run_us: int = 0,
    ) -> None:
        """Answer a call, by default the oldest. With ``stream`` the chunks of the answer follow.

        Args:
            call_id: of the call; None for the oldest.
            body: of the answer.
            status: of the answer.
            load: how many calls the replica says that it has.
            stream: whether chunks follow.
            headers: of the answer.
            run_us: how long user code ran, in microseconds.
        """
        call_id = self._take(call_id)
        self._send(
            Kind.REPLY, call_id, pack(ReplyHead(status, headers or [], load, stream=stream, run_us=run_us)), body
        )

    def fail(
        self, call_id: int | None = None, text: str = "no", *, reason: Reason = Reason.USER_CODE, run_us: int = 0
    ) -> None:
        """Answer with an exception of user code, or with another failure.

        Args:
            call_id: of the call; None for the oldest.
            text: of the exception.
            reason: of the failure.
            run_us: how long user code ran, in microseconds.
        """
        call_id = self._take(call_id)
        self._send(Kind.FAILURE, call_id, pack(FailureHead(reason, "ValueError", text, run_us=run_us)))

    def refuse(self, call_id: int | None = None, *, reason: Reason = Reason.QUEUE_FULL, load: int = 0) -> None:
        """Refuse a call as not started.

        Args:
            call_id: of the call; None for the oldest.
            reason: why.
            load: how many calls the replica says that it has.
        """
        call_id = self._take(call_id)
        self._send(Kind.REFUSE, call_id, pack(RefuseHead(reason, load)))

    def free(self, *, load: int = 0, run_us: int = 0, idle: bool = False) -> None:
        """Tell the last router that has called calls back that another one can begin.

        Args:
            load: how many calls the replica says that it has.
            run_us: how long user code ran, in microseconds.
            idle: whether it runs nothing.
        """
        assert self._last is not None
        self._last.send(Kind.FREE, 0, pack(FreeHead(load, run_us, idle)))

    def tell(self, **models: Any) -> None:
        """Tell all routers of the models that it holds; the fields of a :class:`~pointsman.wire.scaling.ModelsHead`.

        Args:
            models: the fields, by name.
        """
        for stream in self._connected:
            stream.send(Kind.MODELS, 0, pack(ModelsHead(**models)))

    def credit(self, call_id: int, size: int) -> None:
        """Say that so many bytes behind a call were read.

        Args:
            call_id: of the call.
            size: how many bytes.
        """
        self._send(Kind.CREDIT, call_id, pack(CreditHead(size)))

    def chunk(self, call_id: int, data: bytes) -> None:
        """Send a chunk of an answer that streams.

        Args:
            call_id: of the call.
            data: the chunk.
        """
        self._send(Kind.CHUNK, call_id, b"", data)

    def end(self, call_id: int) -> None:
        """End an answer that streams.

        Args:
            call_id: of the call.
        """
        self._send(Kind.END, call_id)

    def _take(self, call_id: int | None) -> int:
        chosen = next(iter(self.calls)) if call_id is None else call_id
        self.calls.pop(chosen, None)
        return chosen

    def _send(self, kind: Kind, call_id: int, head: bytes = b"", body: bytes = b"") -> None:
        self._streams[call_id].send(kind, call_id, head, body)

    # StreamUser

    def stream_ready(self, stream: Stream) -> None:
        """A router has connected.

        Args:
            stream: the connection.
        """
        self._connected.append(stream)
        stream.send(Kind.MODELS, 0, pack(ModelsHead(held=self._held, whole=True)))

    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None:
        """A router has sent something.

        Args:
            stream: the connection.
            frames: what came.
        """
        for frame in frames:
            if frame.kind == Kind.CALL:
                head = unpack(frame.head, AppCallHead)
                self.calls[frame.call_id] = head
                self.arrived.append(head)
                self.bodies.append(bytes(frame.body))
                self._streams[frame.call_id] = stream
            elif frame.kind == Kind.CANCEL:
                self.cancelled.append(frame.call_id)
                self.calls.pop(frame.call_id, None)
            elif frame.kind in (Kind.CHUNK, Kind.END):
                self.behind.setdefault(frame.call_id, []).append((frame.kind, bytes(frame.head), bytes(frame.body)))
            elif frame.kind == Kind.RECALL:
                self.recalls += 1
                self._last = stream
            elif frame.kind == Kind.CREDIT:
                self.credits += unpack(frame.head, CreditHead).chunks

    def stream_lost(self, stream: Stream, error: Exception | None) -> None:
        """A connection has ended.

        Args:
            stream: the connection.
            error: why; None for an end in good order.
        """
        if stream in self._connected:  # else it was lost before it was ready
            self._connected.remove(stream)
        for call_id in [call_id for call_id, known in self._streams.items() if known is stream]:
            self.calls.pop(call_id, None)
            del self._streams[call_id]


def table_of(
    version: int,
    backends: dict[str, list[MemoryReplica] | list[ScriptedReplica]],
    *,
    endpoints: dict[str, dict[str, float]] | None = None,
    shadows: dict[str, float] | None = None,
    max_concurrent_queries: int = 100,
    max_queued_queries: int = 1000,
    one_at_a_time: bool = False,
    multiplexed: bool = False,
) -> RoutingTable:
    """A routing table.

    Args:
        version: of the table; routers ignore older ones.
        backends: replicas by backend tag.
        endpoints: weights by endpoint; by default one endpoint per backend, of the same name.
        shadows: proportions by backend, for every endpoint.
        max_concurrent_queries: how many calls a router sends to one replica at a time.
        max_queued_queries: how many calls of one endpoint may wait in a router.
        one_at_a_time: whether all backends run their calls so.
        multiplexed: whether all of them load models by id.
    """
    weights = endpoints if endpoints is not None else {tag: {tag: 1.0} for tag in backends}
    return RoutingTable(
        version,
        {
            name: EndpointSpec(name, None, ("GET",), TrafficPolicy(version, split, shadows or {}))
            for name, split in weights.items()
        },
        {
            tag: BackendRoute(
                tag,
                tuple(r.ref for r in replicas),
                max_concurrent_queries,
                max_queued_queries,
                one_at_a_time,
                api=next((r.api for r in replicas), b""),
                multiplexed=multiplexed,
            )
            for tag, replicas in backends.items()
        },
    )


def new_call(endpoint: str = "b", *, timeout_s: float = 60.0, **fields: Any) -> Call:
    """A call that has ``timeout_s`` seconds; await its ``future`` once a router has it.

    Args:
        endpoint: name of the endpoint.
        timeout_s: seconds that the call has.
        fields: of the request's head, or of the call, by name.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Reply] = loop.create_future()
    head = {name: fields.pop(name) for name in RequestHead.__struct_fields__ if name in fields}
    return Call(RequestHead(endpoint, **head), deadline=loop.time() + timeout_s, future=future, **fields)


def runs_on_loop(code: Any) -> bool:
    """Whether the calls of a function or class run on the event loop, and not on a thread."""
    if isinstance(code, Mounted):
        return True
    function = getattr(code, DEFAULT_METHOD, None) if isinstance(code, type) else code
    return is_async(function)
