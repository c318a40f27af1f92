"""Mirrors calls of one endpoint to one shadow backend: marked, bounded, and without effect on the caller.

The router makes mirrored calls after the call itself was placed (decision 0011). Their answers are read to the end and
dropped, so that the shadow does all of its work; their failures are counted and logged. Those that are to be compared
are given to a :class:`~pointsman.routing.pairing.Pairing` before.
"""

from __future__ import annotations

import asyncio
import logging
import time

from msgspec.structs import replace

from pointsman.routing.call import Call, ClientClosedError, is_error
from pointsman.routing.metrics import RouterMetrics, ShadowStatistics
from pointsman.routing.pairing import Compared, Pairing
from pointsman.routing.reply import Reply, ReplyStream, StreamBroken
from pointsman.telemetry.logs import WarningBudget
from pointsman.telemetry.values import TallyValues
from pointsman.wire.frames import Body

log = logging.getLogger(__name__)

SHADOW_HEADER = b"x-serve-shadow"
MAX_IN_FLIGHT = 100
"""Mirrored calls per shadow and router that may wait or run; more are dropped."""
MAX_BYTES_IN_FLIGHT = 256 * 1024 * 1024
"""Most bytes of their bodies, which stay in memory until they end; a single mirrored call may have more."""


class Shadow:
    """One shadow of one endpoint in this process. It outlives changes of its proportion.

    Args:
        endpoint: whose calls are mirrored.
        backend: which backend gets the mirrored calls.
        metrics: where dropped calls are counted.

    Attributes:
        compared: has its answers compared; None where they are not.
    """

    def __init__(self, endpoint: str, backend: str, *, metrics: RouterMetrics | None = None) -> None:
        self._metrics = metrics
        self.endpoint = endpoint
        self.backend = backend
        self.compared: Compared | None = None
        self._loop = asyncio.get_running_loop()
        self._inflight = 0
        self._bytes = 0
        self._answered = 0
        self._failed = 0
        self._dropped = 0
        self._closed = False
        self._readers: set[asyncio.Task[None]] = set()
        self._budget = WarningBudget(per_second=1)

    def mirror(
        self, call: Call, body: Body, pairing: Pairing | None = None, tally: TallyValues | None = None
    ) -> Call | None:
        """Make the mirrored call of ``call``, sharing its body; None if too many are in flight. Its answer is given to
        ``pairing``, and what becomes of it is counted in ``tally``."""
        size = len(body)
        too_large = self._inflight > 0 and self._bytes + size > MAX_BYTES_IN_FLIGHT
        if too_large or self._inflight >= MAX_IN_FLIGHT:
            self._drop()
            return None
        self._inflight += 1
        self._bytes += size
        request = replace(call.request, headers=[*call.request.headers, (SHADOW_HEADER, b"1")])
        outcome = _Outcome(self, call.deadline, size, pairing, tally)
        mirrored = call.copy_for(request, body, outcome)
        if pairing is not None:
            outcome.call = mirrored
        return mirrored

    @property
    def inflight(self) -> int:
        """Mirrored calls that wait or run."""
        return self._inflight

    def statistics(self) -> ShadowStatistics:
        return ShadowStatistics(
            self.endpoint, self.backend, self._inflight, self._answered, self._failed, self._dropped
        )

    async def aclose(self) -> None:
        """Stop reading streamed answers. Later failures are not logged: they come from the shutdown."""
        self._closed = True
        for task in self._readers:
            task.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    def answered(self, reply: Reply, deadline: float, size: int, tally: TallyValues | None) -> None:
        if reply.stream is None:
            self._finish(None, size)
        else:
            task = self._loop.create_task(self._read(reply.stream, deadline, size, tally))
            self._readers.add(task)
            task.add_done_callback(self._readers.discard)

    def failed(self, error: BaseException, size: int) -> None:
        self._finish(error, size)
        if not self._closed and self._budget.take("failed", self._loop.time()) is not None:
            first_line = str(error).strip().partition("\n")[0]
            log.warning(
                "a copy for shadow %r of endpoint %r failed (%d so far): %s",
                self.backend,
                self.endpoint,
                self._failed,
                first_line or type(error).__name__,
            )

    async def _read(self, stream: ReplyStream, deadline: float, size: int, tally: TallyValues | None) -> None:
        async def to_its_end() -> None:
            async for _ in stream:
                pass

        error: BaseException | None = None
        try:
            await asyncio.wait_for(to_its_end(), deadline - self._loop.time())
        except StreamBroken as broken:
            error = broken
        except asyncio.TimeoutError as late:
            error = late
            if stream.watcher is not None:
                stream.watcher.ended(late)
        except asyncio.CancelledError as cancelled:
            error = cancelled
            raise
        finally:
            stream.close()
            if tally is not None and not isinstance(error, asyncio.CancelledError):
                tally.ended(error is not None)
            self._finish(error, size)

    def _finish(self, error: BaseException | None, size: int) -> None:
        self._inflight -= 1
        self._bytes -= size
        if error is None:
            self._answered += 1
        else:
            self._failed += 1

    def drop(self) -> None:
        """Count a call that is not mirrored, since it is a WebSocket, or its body is too large to be kept."""
        self._dropped += 1
        if self._metrics is not None:
            self._metrics.dropped(self.endpoint, self.backend)

    def _drop(self) -> None:
        self.drop()
        if self._budget.take("dropped", self._loop.time()) is not None:
            log.warning(
                "shadow %r of endpoint %r is too slow: %d copies are under way, of %d bytes; %d were dropped so far",
                self.backend,
                self.endpoint,
                self._inflight,
                self._bytes,
                self._dropped,
            )


class _Outcome:
    """The future of a mirrored call: reports the outcome to the shadow."""

    __slots__ = ("_began", "_deadline", "_done", "_pairing", "_shadow", "_size", "_tally", "call")

    def __init__(
        self, shadow: Shadow, deadline: float, size: int, pairing: Pairing | None, tally: TallyValues | None
    ) -> None:
        self._began = time.monotonic()
        self._tally = tally
        self._shadow = shadow
        self._deadline = deadline
        self._size = size
        self._pairing = pairing
        self._done = False
        self.call: Call | None = None

    def done(self) -> bool:
        return self._done

    def cancel(self) -> None:
        if not self._done:
            self.set_exception(asyncio.CancelledError())

    def set_result(self, reply: Reply) -> None:
        self._done = True
        call, self.call = self.call, None  # the two refer to each other
        if self._pairing is not None and call is not None:
            self._pairing.answered(call, reply, shadow=True)
        tally = self._tally
        if tally is not None:
            if reply.stream is None or reply.status >= 500:
                tally.count(time.monotonic() - self._began, reply.status >= 500)
                tally = None
            else:
                tally.waited(time.monotonic() - self._began)
        self._shadow.answered(reply, self._deadline, self._size, tally)

    def set_exception(self, error: BaseException) -> None:
        self._done = True
        call, self.call = self.call, None
        if self._pairing is not None and call is not None:
            self._pairing.failed(call, error, shadow=True)
        if self._tally is not None:
            if isinstance(error, (asyncio.CancelledError, ClientClosedError)):
                self._tally.waited(time.monotonic() - self._began)
            else:
                self._tally.count(time.monotonic() - self._began, is_error(error))
        self._shadow.failed(error, self._size)
