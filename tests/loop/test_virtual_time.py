"""testing.virtual_time: time that jumps, and what it must not jump over."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from pointsman.testing import DeadlockError, real_time, run, settle, virtual_loop


def test_an_hour_passes_at_once() -> None:
    """A user tests what happens after an hour and does not wait for it."""

    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    before = time.monotonic()
    assert run(main()) == pytest.approx(3600)
    assert time.monotonic() - before < 600


def test_timers_fire_in_their_order() -> None:
    """Two things that are due at different moments happen in that order, with the clock at each moment."""
    seen: list[tuple[float, str]] = []

    async def note(delay_s: float, text: str) -> None:
        await asyncio.sleep(delay_s)
        seen.append((round(asyncio.get_running_loop().time(), 6), text))

    async def main() -> None:
        await asyncio.gather(note(30, "late"), note(0.5, "early"), note(7, "between"))

    run(main())
    assert seen == [(0.5, "early"), (7.0, "between"), (30.0, "late")]


def test_waiting_for_ever_is_an_error_that_says_who_waits() -> None:
    """A test that would hang fails at once instead and names the line that waits."""

    async def never_told() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match=r"test_virtual_time\.py:\d+, never_told"):
        run(never_told())


def test_the_clock_stands_while_an_executor_works() -> None:
    """A timer of a minute does not overtake a result that a thread is about to give."""
    gate = threading.Event()
    main_thread = threading.get_ident()

    def work() -> bool:
        gate.wait()
        return threading.get_ident() != main_thread

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(None, work)
        loop.call_soon(gate.set)
        done = await asyncio.wait_for(future, 60)
        assert loop.time() == 0
        return done

    assert run(main())


def test_other_threads_have_real_time() -> None:
    """A thread that calls the loop by itself is waited for where the test says so."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        with real_time():
            thread = threading.Thread(target=lambda: loop.call_soon_threadsafe(told.set))
            thread.start()
            await asyncio.wait_for(told.wait(), 30)
            thread.join()
        assert loop.time() < 30

    run(main())


def test_settle_lets_everything_happen_but_the_passing_of_time() -> None:
    """A test looks at a system when it has come to rest, and no timer has fired."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[str] = []

        async def chain(steps: int) -> None:
            for _ in range(steps):
                await asyncio.sleep(0)
            await loop.run_in_executor(None, lambda: None)
            seen.append("end of chain")

        task = loop.create_task(chain(50))
        loop.call_later(0.001, seen.append, "timer")
        await settle()
        assert seen == ["end of chain"]
        assert loop.time() == 0
        await task

    run(main())


def test_an_error_in_a_callback_fails_the_run() -> None:
    """An exception that a loop would only log is not passed over in a test."""

    def broken() -> None:
        raise ZeroDivisionError("in a callback")

    async def main() -> None:
        asyncio.get_running_loop().call_soon(broken)
        await settle()

    with pytest.raises(ZeroDivisionError, match="in a callback"):
        run(main())


def test_left_tasks_are_cancelled_and_clean_up() -> None:
    """What a test has left running is ended, its ``finally`` included."""
    ended: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cleaned up")

    async def main() -> None:
        task = asyncio.ensure_future(endless())
        await settle()
        assert not task.done()

    run(main())
    assert ended == ["cleaned up"]


def test_the_helpers_say_what_they_need() -> None:
    """Used under an ordinary loop, the helpers say that they need ``run``."""

    async def main() -> None:
        virtual_loop()

    with pytest.raises(RuntimeError, match=r"pointsman\.testing\.run"):
        asyncio.run(main())
