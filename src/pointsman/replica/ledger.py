"""The calls that are in this replica, from their admission until their callers have been told.

    admit -> start, or startable: noted as started -> reply, end, end_stream: slot back, caller told, struck out

A call is struck out only when its answer has left this process: before that, a SIGKILL would take the answer along, and
the router would believe that the call had never begun.

Everything here runs on the loop, but for :meth:`Ledger.startable`, which the thread of sync code calls too, and
:meth:`Ledger.items`, which any thread may.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from pointsman.exceptions import TooLargeError, UserCodeError
from pointsman.replica.answers import Answer
from pointsman.replica.failurelog import FailureLog
from pointsman.replica.item import Ending, Item
from pointsman.replica.metrics import ReplicaMetrics
from pointsman.replica.streams import end_stream
from pointsman.wire.frames import Kind
from pointsman.wire.messages import ReplyHead, pack
from pointsman.wire.started import StartedCalls
from pointsman.wire.stream import Stream


class Ledger:
    """See the module.

    Args:
        started: where calls are noted before user code sees them; None where nobody will read it.
        metrics: where they are counted.

    Attributes:
        connections: of routers, and their numbers.
        draining: no more calls are to be admitted.
        answered: a call has been answered.
        on_answer: called once, when the first call has been.
        failures: told what user code raised, before its callers are.
    """

    def __init__(self, started: StartedUntilTold | None, metrics: ReplicaMetrics) -> None:
        self.connections: dict[Stream, int] = {}
        self.draining = False
        self.answered = False
        self.on_answer: Callable[[], object] = lambda: None
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
        """Return when no call is left and every answer is written; from now on none is to be admitted."""
        self.draining = True
        if not self._items and not self._drained.done():
            self._drained.set_result(None)
        await asyncio.shield(self._drained)
        for stream in list(self.connections):
            await stream.flushed()

    def start(self, item: Item) -> bool:
        """Say that user code is about to see a call, on the loop; False when nobody waits for it any more."""
        now = time.monotonic()
        if self._begin(item, now):
            self.metrics.loop.started((item,), now)
            return True
        self.close(item)
        return False

    def startable(self, batch: list[Item]) -> list[Item]:
        """The same for a batch, from the thread or the loop: members whose callers still wait. The slots of the others
        are given back."""
        now = time.monotonic()
        items = []
        for item in batch:
            if self._begin(item, now):
                items.append(item)
            else:
                self._loop.call_soon_threadsafe(self.close, item)
        if items:
            (self.metrics.loop if items[0].method.is_async else self.metrics.thread).started(items, now)
        return items

    def close(self, item: Item) -> None:
        """A call has no further answer: give its slot back, and strike it out once what was sent has left."""
        self._give_back(item)
        if item.mark is not None and self._started is not None:
            self._started.end_when_told(item.mark, item.stream)
            item.mark = None

    def reply(self, item: Item, answer: Answer) -> None:
        if not item.over:
            self._give_back(item)
            head = pack(ReplyHead(answer.status, answer.headers, len(self._items), False, *item.timing()))
            try:
                item.stream.send(Kind.REPLY, item.call_id, head, answer.body, alone=not self._items)
            except TooLargeError as error:
                item.over = False  # nothing has left: its caller still waits
                item.counted = False  # as a success, by the thread
                self.fail_with(item, UserCodeError(f"the answer cannot be sent: {error}"))
        self.close(item)

    def end(self, item: Item, ending: Ending) -> None:
        """User code has raised, or given no answer that can be sent."""
        if ending.answer is not None:
            self.reply(item, ending.answer)
            return
        if not item.over:
            if ending.failed:
                self.metrics.loop.failed_late(item)
            self._give_back(item)
            item.stream.send(Kind.FAILURE, item.call_id, pack(ending.failure), ending.pickled)
        self.close(item)

    def fail_with(self, item: Item, error: BaseException) -> None:
        self.fail_all((item,), error)

    def fail_all(self, items: Sequence[Item], error: BaseException) -> None:
        """A batch has failed as one."""
        endings = [item.ending(error) for item in items]
        self.failures.note(error, items, endings)
        for item, ending in zip(items, endings, strict=True):
            self.end(item, ending)

    def end_stream(self, item: Item) -> None:
        end_stream(item)
        self.close(item)

    def _begin(self, item: Item, now: float) -> bool:
        if item.over or now >= item.deadline:
            return False
        item.began = now
        if self._started is not None:
            item.mark = self._started.begin(self.connections.get(item.stream, 0), item.call_id)
        return True

    def _give_back(self, item: Item) -> None:
        """Its slot is free, and it is counted: before its caller can know."""
        if not self.answered and item.began and not item.over:
            self.answered = True
            self._loop.call_soon(self.on_answer)  # behind the answer
        item.over = True
        if self._items.pop((item.stream, item.call_id), None) is None:
            return
        self.metrics.loop.closed(item)
        if self.draining and not self._items:
            self._drained.set_result(None)


RETRY_S = 0.005
AFTER_LOSS_S = 60.0
"""A router whose connection broke reads the note at once; until it has, the calls stay in it."""


class StartedUntilTold:
    """See the module.

    Args:
        calls: the file that routers read.
    """

    def __init__(self, calls: StartedCalls) -> None:
        self._calls = calls
        self._loop = asyncio.get_running_loop()
        self._over: list[tuple[int, Stream]] = []
        self.begin = calls.begin

    def end_when_told(self, mark: int, stream: Stream) -> None:
        """The call is over, and its answer, if any, was given to the stream before. On the loop."""
        if not self._over:
            if not (stream.unsent or stream.closed):  # it was alone, and has left
                self._calls.end(mark)
                return
            self._loop.call_soon(self._strike_out)  # behind the stream's own flush, which was asked for before
        self._over.append((mark, stream))

    def _strike_out(self) -> None:
        over, self._over = self._over, []
        for mark, stream in over:
            if stream.closed:
                self._loop.call_later(AFTER_LOSS_S, self._calls.end, mark)
            elif stream.unsent:
                self._over.append((mark, stream))
            else:
                self._calls.end(mark)
        if self._over:
            self._loop.call_later(RETRY_S, self._strike_out)
