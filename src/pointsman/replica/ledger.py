"""The calls in this replica, from their admission until their answers have left the process.

    admit -> start or startable: mark as started -> reply, end, end_stream: free the slot, send, clear the mark

A call is marked in the file of started calls before user code sees it (decision 0014). The mark is cleared only when
the answer has left this process: if it were cleared earlier, and a SIGKILL lost the answer, the router would believe
that the call had never started, and repeat it.

All methods run on the loop, except :meth:`Ledger.startable`, which the thread of sync code calls too,
:meth:`Ledger.reply_from_thread`, which only that thread calls, and :meth:`Ledger.items`, which is thread-safe.

What the thread changes by itself, each thing by one operation that the interpreter lock makes whole: it takes the call
that it has run out of the dict of calls, sets its ``over`` and ``run_us``, counts in metrics of its own, and frees its
slot among the started calls. It reads flags that the loop sets; each is looked at by both sides in such an order that
one of them sees what the other has done. So there is no lock here for which the loop could wait. A recall (decision
0054) takes only calls that wait, under the lock of the thread's batcher, and so none that the thread may answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

from msgspec.structs import replace

from pointsman.exceptions import TooLargeError, UserCodeError
from pointsman.replica.answers import Answer
from pointsman.replica.failurelog import FailureLog
from pointsman.replica.item import Ending, Item
from pointsman.replica.metrics import ReplicaMetrics
from pointsman.replica.streams import end_stream
from pointsman.wire.encoding import LARGE_BODY, encode_frame
from pointsman.wire.frames import Kind
from pointsman.wire.messages import FreeHead, ReplyHead, pack
from pointsman.wire.shared import Sent, SharedStream
from pointsman.wire.started import StartedCalls
from pointsman.wire.stream import Stream


class Ledger:
    """The calls in a replica.

    Args:
        started: marks of started calls; None if no router reads them.
        metrics: where calls are counted.

    Attributes:
        connections: connections of routers, with the number that each router has drawn for its own.
        draining: no more calls are admitted.
        answered: whether any call has been answered.
        run_us: what a call on the thread takes, as replies report it.
        on_answer: called once, after the first answer.
        on_slot: called when a slot has become free, while somebody waits for one.
        failures: log of exceptions of user code, written before the callers get them.
    """

    def __init__(self, started: StartedLedger | None, metrics: ReplicaMetrics) -> None:
        self.connections: dict[Stream, int] = {}
        self.draining = False
        self.answered = False
        self.run_us = 0
        self.on_answer: Callable[[], object] = lambda: None
        self.on_slot: Callable[[], None] | None = None
        self.metrics = metrics
        self.failures = FailureLog()
        self._started = started
        self._loop = asyncio.get_running_loop()
        self._items: dict[tuple[Stream, int], Item] = {}
        self._drained: asyncio.Future[None] = self._loop.create_future()

    @property
    def load(self) -> int:
        """Calls in this replica, waiting or running."""
        return len(self._items)

    def items(self) -> list[Item]:
        return list(self._items.copy().values())

    def find(self, stream: Stream, call_id: int) -> Item | None:
        return self._items.get((stream, call_id))

    def admit(self, item: Item) -> None:
        self._items[item.stream, item.call_id] = item
        self.metrics.loop.arrived()

    async def drained(self) -> None:
        """Admit no more calls, and return when none is left and all answers have been written."""
        self.draining = True
        await self.no_calls()
        for stream in list(self.connections):
            await stream.flushed()

    async def no_calls(self) -> None:
        """Return when there are no more calls."""
        self._check_drained()
        await asyncio.shield(self._drained)

    def start(self, item: Item) -> bool:
        """Mark a call as started, right before user code is called. False if its caller does not wait any more: then
        the call is closed, and must not run."""
        now = time.monotonic()
        if self._mark_started(item, now):
            self.metrics.loop.started((item,), now)
            return True
        self.close(item)
        return False

    def begins(self, item: Item) -> bool:
        """Mark a WebSocket as started, which is none of the calls here; False if nobody waits for it any more."""
        return self._mark_started(item, time.monotonic())

    def startable(self, batch: list[Item]) -> list[Item]:
        """Mark the members of a batch as started whose callers still wait, and return them. The others are closed.

        Called on the loop or on the thread.
        """
        now = time.monotonic()
        items = []
        for item in batch:
            if self._mark_started(item, now):
                items.append(item)
            else:
                self._loop.call_soon_threadsafe(self.close, item)
        if items:
            (self.metrics.loop if items[0].method.is_async else self.metrics.thread).started(items, now)
        return items

    def send_free(self, *streams: Stream, idle: bool = False) -> None:
        """Tell routers, by default all, that another call can begin, and what one takes."""
        for stream in streams or self.connections:
            stream.send(Kind.FREE, 0, pack(FreeHead(self.load, self.run_us, idle)))

    def close(self, item: Item) -> None:
        """End a call that sends nothing more, and of which no user code runs any more: free its slot and its models,
        and clear its mark once its answer has left."""
        self._free_slot(item)
        if item.mark is not None and self._started is not None:
            self._started.end_when_sent(item.mark, item.stream)
            item.mark = None
        if item.models is not None:
            item.end_models()

    def leave(self, item: Item) -> None:
        """The same while user code still runs, which keeps the models until the call is closed."""
        models, item.models = item.models, None
        self.close(item)
        item.models = models

    def reply(self, item: Item, answer: Answer) -> None:
        if not item.over:
            self._free_slot(item)
            timing = item.timing()
            head = pack(ReplyHead(answer.status, answer.headers, len(self._items), False, *timing, self.run_us))
            try:
                item.stream.send(Kind.REPLY, item.call_id, head, answer.body, alone=not self._items)
            except TooLargeError as error:
                item.over = False  # nothing was sent, and the caller still waits
                item.counted = False  # the thread has counted it as a success
                self.fail_with(item, UserCodeError(f"the answer cannot be sent: {error}"))
        self.close(item)

    def reply_from_thread(self, item: Item, answer: Answer, post: Callable[..., None]) -> bool:
        """Answer a call from the thread that has run it, past the loop: a third of what a small call cost a replica was
        that thread and loop handed the interpreter to each other once more for each answer.

        Only a call that is alone in the replica is answered so: with others about, the loop sends many answers at once,
        and in their order. Not the first of a replica, of which the controller is told, nor one that is traced.

        Args:
            post: has the loop call something.

        Returns:
            False where nothing has happened, and :meth:`reply` is to be called on the loop.
        """
        stream = item.stream
        if len(self._items) != 1 or item.over or item.span is not None or not self.answered:
            return False
        if self.on_slot is not None:
            return False
        if not isinstance(stream, SharedStream) or len(answer.body) >= LARGE_BODY:
            return False
        try:
            head = pack(ReplyHead(answer.status, answer.headers, 0, False, *item.timing(), self.run_us))
            frame = encode_frame(Kind.REPLY, item.call_id, head, answer.body)
        except Exception:  # noqa: BLE001 - whatever it is, the loop meets it again, and this thread must not end of it
            return False
        # Its caller may give it up from here on. Then the answer crosses that on its way, and the router drops it.
        sent = stream.try_send_now(frame, partial(self._give_back_from_thread, item))
        if sent is Sent.NOTHING:
            return False
        if sent is Sent.PART or stream.closed:
            post(self.close, item)
        elif item.mark is not None and self._started is not None:
            self._started.end(item.mark)
            item.mark = None
        if self.draining:  # a drain that begins after this look finds the call gone
            post(self._check_drained)
        return True

    def end(self, item: Item, ending: Ending) -> None:
        """Send the outcome of a call whose user code raised, or gave no valid answer."""
        if ending.answer is not None:
            self.reply(item, ending.answer)
            return
        if not item.over:
            if ending.failed:
                self.metrics.loop.failed_late(item)
            self._free_slot(item)
            assert ending.failure is not None
            head = replace(ending.failure, load=len(self._items), run_us=self.run_us)
            item.stream.send(Kind.FAILURE, item.call_id, pack(head), ending.pickled)
        self.close(item)

    def fail_with(self, item: Item, error: BaseException) -> None:
        self.fail_all((item,), error)

    def fail_all(self, items: Sequence[Item], error: BaseException) -> None:
        """Fail all members of a batch with one error, which is logged once."""
        endings = [item.ending(error) for item in items]
        self.failures.record(error, items, endings)
        for item, ending in zip(items, endings, strict=True):
            self.end(item, ending)

    def end_stream(self, item: Item) -> None:
        end_stream(item)
        self.close(item)

    def _mark_started(self, item: Item, now: float) -> bool:
        if item.over or now >= item.deadline:
            return False
        item.began = now
        if self._started is not None:
            item.mark = self._started.begin(self.connections.get(item.stream, 0), item.call_id)
        return True

    def _free_slot(self, item: Item) -> None:
        """Free a call's slot and count the call. Comes before the answer is sent, so that a caller who sends the next
        call at once finds the slot free."""
        if not self.answered and item.began and not item.over:
            self.answered = True
            self._loop.call_soon(self.on_answer)  # after the answer was sent
        item.over = True
        if self._items.pop((item.stream, item.call_id), None) is None:
            return
        self.metrics.loop.closed(item)
        if self.on_slot is not None:
            self.on_slot()
        self._check_drained()

    def _give_back_from_thread(self, item: Item) -> None:
        """The same."""
        item.over = True
        # Atomic: keys are compared without Python code. None where a router has used an id twice.
        if self._items.pop((item.stream, item.call_id), None) is not None:
            self.metrics.thread.closed(item)
        if item.models is not None:
            item.end_models()

    def _check_drained(self) -> None:
        if self.draining and not self._items and not self._drained.done():
            self._drained.set_result(None)


RETRY_S = 0.005
AFTER_LOSS_S = 60.0
"""How long marks stay after a connection broke, so that its router can read them. It does so at once."""


class StartedLedger:
    """Keeps the marks of started calls until their answers have left the process.

    Args:
        calls: the file that routers read.
    """

    def __init__(self, calls: StartedCalls) -> None:
        self._calls = calls
        self._loop = asyncio.get_running_loop()
        self._over: list[tuple[int, Stream]] = []
        self.begin = calls.begin
        self.end = calls.end
        """From any thread: the call is over, and its answer has left."""

    def end_when_sent(self, mark: int, stream: Stream) -> None:
        """Clear a mark when all that was given to the stream before has left. On the loop only."""
        if not self._over:
            if not (stream.unsent or stream.closed):  # a single answer, which was written at once
                self._calls.end(mark)
                return
            self._loop.call_soon(self._end_sent)  # runs after the stream's flush, which was scheduled before
        self._over.append((mark, stream))

    def _end_sent(self) -> None:
        over, self._over = self._over, []
        for mark, stream in over:
            if stream.closed:
                self._loop.call_later(AFTER_LOSS_S, self._calls.end, mark)
            elif stream.unsent:
                self._over.append((mark, stream))
            else:
                self._calls.end(mark)
        if self._over:
            self._loop.call_later(RETRY_S, self._end_sent)
