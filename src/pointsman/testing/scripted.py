"""A replica in memory whose answers a test chooses. See :mod:`pointsman.testing.replicas`."""

from __future__ import annotations

from typing import Any

from pointsman.model import Reason
from pointsman.testing.replicas import Listening
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.messages import AppCallHead, CreditHead, FailureHead, FreeHead, RefuseHead, ReplyHead, pack, unpack
from pointsman.wire.scaling import ModelsHead
from pointsman.wire.stream import Stream


class ScriptedReplica(Listening):
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
