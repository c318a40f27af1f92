"""Calls that are sent back before they have begun, so that routers place them elsewhere: because the replica will not
begin them soon, or since a router wants them back, who knows of a replica that may be free (decision 0054)."""

from __future__ import annotations

import asyncio
import time

from pointsman.model import Reason
from pointsman.policy.balance import CLOCK_S, LEAD_S
from pointsman.replica.item import Item
from pointsman.replica.ledger import Ledger
from pointsman.replica.tasks import OnLoop
from pointsman.replica.thread import OnThread
from pointsman.wire.frames import Kind
from pointsman.wire.messages import RefuseHead, pack
from pointsman.wire.stream import Stream


class Recalls:
    """Sends calls back.

    Args:
        ledger: the calls of the replica.
        on_thread, on_loop: run them.

    Attributes:
        held: whether no call is started.
    """

    def __init__(self, ledger: Ledger, on_thread: OnThread, on_loop: OnLoop) -> None:
        self._ledger = ledger
        self._on_thread = on_thread
        self._on_loop = on_loop
        self.held = False

    def send_back(self, reason: Reason, stream: Stream | None = None) -> None:
        """Refuse the waiting calls, by default those of all connections: routers place each again."""
        for item in self._ledger.items():
            if stream in (None, item.stream) and not item.over and self.dequeue(item):
                self._ledger.close(item)
                item.stream.send(Kind.REFUSE, item.call_id, pack(RefuseHead(reason, self._ledger.load)))

    def dequeue(self, item: Item) -> bool:
        """Remove a waiting item; False if it has been started."""
        if item.method.is_async:
            return self._on_loop.executor.remove(item, key=item.key, mirrored=item.head.shadow)
        return self._on_thread.executor.remove(item, key=item.key, mirrored=item.head.shadow)

    def recall(self, stream: Stream) -> None:
        """Another replica may be free for what waits here. It is sent back when it waits for long, so that it does not
        lose its place to those behind it for nothing. The router hears when this replica is free, since it may have no
        call left here whose answer would say so."""
        ledger = self._ledger
        if self._on_thread.executor.is_free(lambda: ledger.send_free(stream)):
            ledger.send_free(stream, idle=not ledger.load)
            return  # what waits here is begun at once, and what comes later was not asked for
        running = self._on_thread.running
        ran_s = time.monotonic() - running[0] if running is not None else 0.0
        if self.held or ran_s >= LEAD_S - CLOCK_S:
            self.send_back(Reason.RECALLED, stream)
        else:
            asyncio.get_running_loop().call_later(LEAD_S - ran_s, self._send_back_behind, running, stream)

    def _send_back_behind(self, running: object, stream: Stream) -> None:
        """Send back what waits for a call that takes long; for another one it may have to wait no longer."""
        if self._on_thread.running is running or running is None:
            self.send_back(Reason.RECALLED, stream)
