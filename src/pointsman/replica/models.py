"""Calls that wait in a replica for the model that they name, and what routers are told of models. Of replicas whose
class has a loader.

    a call -> its model is there: begun at once
           -> it is not: waits here, in no slot -> the host has it -> begun when a slot is free

A call that waits is not among the calls of the ledger: it has not begun, takes no slot, and is refused or forgotten
like one that never came. A model is kept for a call from then on until the call has ended. The host calls on any
thread; all else runs on the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from pointsman.model import Reason
from pointsman.multiplexing.cache import Cause
from pointsman.multiplexing.host import Host
from pointsman.replica.item import Item
from pointsman.replica.ledger import Ledger
from pointsman.wire.frames import Kind
from pointsman.wire.messages import RefuseHead, pack
from pointsman.wire.scaling import ANY_NUMBER, ModelsHead
from pointsman.wire.stream import Stream

HELD = -1
COUNTS_EVERY_S = 0.1
"""How late routers may hear that more or fewer calls wait for a model."""


class WaitingCall:
    """A call that waits for its model, as the host's waiter.

    Attributes:
        cause: why it does not get the model; None before it was told, and if it does.
        left: whether it does not wait any more.
        slot: whether it takes a slot.
    """

    __slots__ = ("_come", "begin", "cause", "item", "left", "slot")

    def __init__(self, item: Item, begin: Callable[[], None], slot: bool, come: Callable[[WaitingCall], None]) -> None:
        self.item = item
        self.begin = begin
        self.slot = slot
        self.cause: Cause | None = None
        self.left = False
        self._come = come

    def told(self, cause: Cause | None) -> None:
        self.cause = cause
        self._come(self)


class Models:
    """The models of a class with a loader, as far as calls and routers are concerned.

    Args:
        host: loads and keeps them.
        ledger: is given calls whose models are there, and those that have failed.
        call_loop: has the loop call a function; from any thread.

    Attributes:
        limit: most calls that run at a time.
    """

    def __init__(self, host: Host, ledger: Ledger, call_loop: Callable[..., None]) -> None:
        self._host = host
        self._ledger = ledger
        self._call_loop = call_loop
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[tuple[Stream, int], WaitingCall] = {}
        self._ready: deque[WaitingCall] = deque()
        self._told: dict[str, int] = {}
        self._changed: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._quiet = asyncio.Event()
        self.limit = 1

    # Calls

    @property
    def ready(self) -> int:
        """Calls whose models are there, and which wait for a slot. They were here before any new one."""
        return len(self._ready)

    def must_wait(self, model_id: str) -> bool:
        """Whether a call that comes now would wait for this model, in no slot."""
        return bool(model_id) and self._host.state_of(model_id) != HELD

    def take(self, item: Item) -> bool:
        """Keep the model of a call if it is there; False if the call is to :meth:`wait`. One that names no model needs
        none."""
        # hot: each call with a model passes here
        models = item.models
        if models is None or not models.id:
            return True
        if not self._host.take(models.id):
            return False
        models.cache = self._host
        return True

    def wait(self, item: Item, begin: Callable[[], None], *, slot: bool = True) -> None:
        """Begin a call when its model is there.

        Args:
            slot: whether it takes a slot.
        """
        waiting = self._waiting[item.stream, item.call_id] = WaitingCall(item, begin, slot, self._come_soon)
        self._host.want(item.request.model_id, waiting)

    def find(self, stream: Stream, call_id: int) -> Item | None:
        """A call that waits."""
        waiting = self._waiting.get((stream, call_id))
        return None if waiting is None else waiting.item

    def forget(self, stream: Stream, call_id: int) -> bool:
        """The caller has gone; False where none waits here."""
        waiting = self._waiting.pop((stream, call_id), None)
        if waiting is None:
            return False
        waiting.left = True
        if waiting in self._ready:
            self._ready.remove(waiting)
            self._ledger.close(waiting.item)
        else:
            # One that was told already finds on its way here that it has left.
            self._host.give_up(waiting.item.request.model_id, waiting)
        self._check_nobody_waits()
        return True

    def lose(self, stream: Stream) -> None:
        """The connection of a router has gone."""
        for known, call_id in [key for key in self._waiting if key[0] is stream]:
            self.forget(known, call_id)

    def send_back(self, reason: Reason, *, all_of_them: bool = True) -> None:
        """Refuse the calls that wait, so that routers place them elsewhere; by choice not those whose model is about to
        be there."""
        for (stream, call_id), waiting in list(self._waiting.items()):
            model_id = waiting.item.request.model_id
            if all_of_them or not (self._host.is_loading(model_id) or self._host.state_of(model_id) == HELD):
                self.forget(stream, call_id)
                stream.send(Kind.REFUSE, call_id, pack(RefuseHead(reason, self._ledger.load)))

    async def nobody_waits(self) -> None:
        """Return when no call waits."""
        while self._waiting:
            self._quiet.clear()
            await self._quiet.wait()

    def begin_ready(self) -> None:
        """Begin calls whose models are there, as far as there are slots."""
        while self._ready and (self._ledger.load < self.limit or not self._ready[0].slot):
            waiting = self._ready.popleft()
            del self._waiting[waiting.item.stream, waiting.item.call_id]
            waiting.begin()
        self._ledger.on_slot = self._begin_ready_soon if self._ready else None
        self._check_nobody_waits()

    def _begin_ready_soon(self) -> None:
        self._loop.call_soon(self.begin_ready)

    def _come_soon(self, waiting: WaitingCall) -> None:
        self._call_loop(self._come, waiting)

    def _come(self, waiting: WaitingCall) -> None:
        """The model of a call is there, or will not be."""
        item = waiting.item
        model_id = item.request.model_id
        if waiting.left:
            if waiting.cause is None:
                self._host.release(model_id)
        elif waiting.cause is None:
            assert item.models is not None
            item.models.cache = self._host
            self._ready.append(waiting)
            self.begin_ready()
        else:
            del self._waiting[item.stream, item.call_id]
            self._ledger.admit(item)
            if self._ledger.start(item):
                self._ledger.fail_with(item, waiting.cause.again())
            self._check_nobody_waits()

    def _check_nobody_waits(self) -> None:
        if not self._waiting:
            self._quiet.set()

    # What routers and the controller are told

    def tell_all(self, stream: Stream) -> None:
        """Tell a router that has connected what there is."""
        states = {model_id: self._host.state_of(model_id) for model_id in self._host.ids()}
        self._send([stream], states, whole=True)

    def changed(self, model_id: str) -> None:
        """A model is wanted, loaded or gone, or more or fewer calls wait for it. On the loop."""
        state, before = self._host.state_of(model_id), self._told.get(model_id)
        self._changed.add(model_id)
        if state is None or before is None or HELD in (state, before):
            self._tell()
        elif self._timer is None:
            self._timer = self._loop.call_later(COUNTS_EVERY_S, self._tell)

    def _tell(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        changed, self._changed = self._changed, set()
        states = {model_id: self._host.state_of(model_id) for model_id in changed}
        new = {model_id: state for model_id, state in states.items() if state != self._told.get(model_id)}
        for model_id, state in new.items():
            if state is None:
                self._told.pop(model_id, None)
            else:
                self._told[model_id] = state
        if new:
            self._send(list(self._ledger.connections), new)

    def _send(self, streams: list[Stream], states: dict[str, int | None], *, whole: bool = False) -> None:
        room = self._host.room
        head = ModelsHead(
            held=tuple(model_id for model_id, state in states.items() if state == HELD),
            loading={model_id: state for model_id, state in states.items() if state is not None and state != HELD},
            gone=tuple(model_id for model_id, state in states.items() if state is None),
            room=ANY_NUMBER if room is None else room,
            load_s=self._host.load_s,
            whole=whole,
        )
        packed = pack(head)
        for stream in streams:
            stream.send(Kind.MODELS, 0, packed)
