"""An event loop whose clock jumps to the next timer when there is nothing else to do: an hour passes in a millisecond.

    run(coroutine) -> VirtualTimeLoop: ready callbacks -> settled? -> executors running? -> jump, or DeadlockError

Used by Pointsman's tests and by users'. Must not import Pointsman, apart from the in-memory network that replaces Unix
sockets. Other threads have no virtual time: the clock stands still while a function in an executor runs; for other
threads there is :func:`real_time`.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any, TypeVar

from pointsman.testing.networks import MemoryNetwork, MemoryServer

T = TypeVar("T")
P = TypeVar("P", bound=asyncio.BaseProtocol)
Events = list[tuple[selectors.SelectorKey, int]]

#: Real seconds that the loop waits for a thread before it raises.
STUCK_S = 30.0


class DeadlockError(RuntimeError):
    """All tasks wait, and no timer or thread can end that. The text lists each task and where it waits."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The loop behind :func:`run`. Its time begins at 0.

    Real sockets work on it, but the clock does not wait for their peers: enclose such waits in :func:`real_time`.

    Attributes:
        network: replaces Unix sockets: ``create_unix_connection`` and ``create_unix_server`` of this loop connect and
            listen there.
        unhandled: exceptions of callbacks and of tasks that were not awaited, which other loops only log.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._at_work = 0
        self._real = 0
        self._settling: list[asyncio.Future[None]] = []
        self.network = MemoryNetwork()
        self.unhandled: list[BaseException] = []
        super().__init__(_Selector(self._pass_time))
        self.set_exception_handler(self._note_unhandled)

    def time(self) -> float:
        """The virtual time in seconds, from 0."""
        return self._now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """As in asyncio; the clock stands still while the function runs.

        Args:
            executor: None for the loop's own.
            func: what it runs.
            args: of the function.

        Returns:
            A future of what the function returns.
        """
        future = super().run_in_executor(executor, func, *args)
        self._at_work += 1
        future.add_done_callback(self._work_done)
        return future

    async def create_unix_connection(  # type: ignore[override]  # without TLS and without the argument ``sock``
        self, protocol_factory: Callable[[], P], path: str
    ) -> tuple[asyncio.Transport, P]:
        """Connect in memory.

        Args:
            protocol_factory: makes the protocol of this end.
            path: an address of :attr:`network`.

        Returns:
            The transport and the protocol.

        Raises:
            ConnectionRefusedError: no server listens at that address of :attr:`network`.
        """
        return await self.network.connect(path, protocol_factory)

    async def create_unix_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], path: str
    ) -> MemoryServer:
        """Listen in memory.

        Args:
            protocol_factory: makes the protocol of each accepted connection.
            path: an address of :attr:`network`.

        Returns:
            The server.

        Raises:
            OSError: another server listens there.
        """
        return self.network.listen(path, protocol_factory)

    async def settled(self) -> None:
        """Return when nothing is left to do at this virtual time; see :func:`settle`."""
        future: asyncio.Future[None] = self.create_future()
        self._settling.append(future)
        await future

    @contextlib.contextmanager
    def real_time(self) -> Iterator[None]:
        """A context in which the clock advances in real time, as :func:`real_time`."""
        self._real += 1
        try:
            yield
        finally:
            self._real -= 1

    def _pass_time(self, timeout: float | None, poll: Callable[[float], Events]) -> Events:
        events = poll(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if self._at_work:
            # The clock stands still: the speed of a disk must not decide which timer comes first.
            events = poll(STUCK_S)
            if not events:
                raise DeadlockError(f"a function in an executor did not return within {STUCK_S:g} s\n{self._waiting()}")
            return events
        if self._settling:
            settling, self._settling = self._settling, []
            for future in settling:
                if not future.done():
                    future.set_result(None)
            return events
        if self._real:
            return self._pass_real_time(timeout, poll)
        if timeout is None:
            raise DeadlockError(f"everything waits and no timer is set\n{self._waiting()}")
        self._now += timeout
        return events

    def _pass_real_time(self, timeout: float | None, poll: Callable[[float], Events]) -> Events:
        before = time.monotonic()
        events = poll(STUCK_S if timeout is None else min(timeout, STUCK_S))
        self._now += time.monotonic() - before
        if timeout is None and not events:
            raise DeadlockError(f"no thread has called the loop for {STUCK_S:g} s\n{self._waiting()}")
        return events

    def _work_done(self, future: asyncio.Future[Any]) -> None:
        self._at_work -= 1

    def _waiting(self) -> str:
        lines = sorted(f"  {task.get_name()} waits in {_place(task.get_coro())}" for task in asyncio.all_tasks(self))
        return "\n".join(lines) or "  (no task is left)"

    def _note_unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        future = context.get("future")
        if future is not None and not isinstance(future, asyncio.Task):
            return  # a future that failed and was dropped, which is no error of any task
        self.unhandled.append(context.get("exception") or RuntimeError(context["message"]))


class _Selector(selectors.DefaultSelector):
    def __init__(self, pass_time: Callable[[float | None, Callable[[float], Events]], Events]) -> None:
        super().__init__()
        self._pass_time = pass_time

    def select(self, timeout: float | None = None) -> Events:
        return self._pass_time(timeout, super().select)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time, as ``asyncio.run`` does in real time.

    Tasks that are left when it returns are cancelled.

    Args:
        main: the coroutine.

    Returns:
        What the coroutine returned.

    Raises:
        DeadlockError: everything waited, for ever.
        BaseException: what the coroutine raised; when it raised nothing, the first exception of a callback or of a task
            that nobody awaited, since a test that passes over those would prove little.
    """
    loop = VirtualTimeLoop()
    try:
        result = loop.run_until_complete(main)
        _end(loop)
        if loop.unhandled:
            raise loop.unhandled[0]
        return result
    finally:
        # After a failure, errors of the clean-up must not hide it, and a coroutine may refuse to be cancelled.
        with contextlib.suppress(DeadlockError):
            _end(loop)
        loop.close()


def virtual_loop() -> VirtualTimeLoop:
    """The running loop.

    Raises:
        RuntimeError: it is not one of :func:`run`.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualTimeLoop):
        raise RuntimeError(f"this needs pointsman.testing.run(...), and the running loop is {loop!r}")
    return loop


async def settle() -> None:
    """Return when everything that can happen without time passing has happened, including functions in executors.

    Lets a test look at a system between two events without guessing how many turns of the loop that takes. Other
    threads are not waited for.
    """
    await virtual_loop().settled()


def real_time() -> contextlib.AbstractContextManager[None]:
    """A context in which the clock advances in real time, for threads and real sockets."""
    return virtual_loop().real_time()


def _end(loop: VirtualTimeLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    with loop.real_time():
        loop.run_until_complete(loop.shutdown_default_executor())


def _place(awaitable: Any) -> str:
    """The innermost line outside asyncio."""
    place = "a place without a frame"
    while awaitable is not None:
        frame: FrameType | None = next(
            (found for name in ("cr_frame", "gi_frame", "ag_frame") if (found := getattr(awaitable, name, None))), None
        )
        if frame is not None and "/asyncio/" not in frame.f_code.co_filename:
            place = f"{frame.f_code.co_filename}:{frame.f_lineno}, {frame.f_code.co_name}"
        awaitable = getattr(awaitable, "cr_await", None) or getattr(awaitable, "gi_yieldfrom", None)
    return place
