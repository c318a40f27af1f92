"""Two routers and the replicas that they share, under anything that callers, operators, user code and death may do in
any order: real pools, real runtimes and their real threads, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pointsman.exceptions import DeadlineExceededError, ReplicaDiedError
from pointsman.incoming import CODEC_HTTP
from pointsman.model import ReplicaConfig
from pointsman.policy.balance import LEAD_S
from pointsman.replica.ledger import StartedLedger
from pointsman.replica.runtime import Runtime
from pointsman.replica.thread import SyncExecutor
from pointsman.routing.call import Call
from pointsman.routing.router import Router
from pointsman.testing import INSTANCE, MemoryReplica, VirtualTimeLoop, new_call, settle, table_of
from pointsman.wire.started import StartedCalls, path_of
from tests.properties import examples

T = TypeVar("T")

LIMIT = 12
NEVER_S = 1e6
SOON_S = 20.0
"""No example takes as long by the clock that replicas go by."""
PICK = st.integers(0, 99)
"""One of what there is, by its place: which calls run may hang on a thread's luck, and what is drawn must not. For the
same reason rules that find nothing to do do nothing."""


class Run:
    """User code that has begun and has not ended."""

    def __init__(self, number: int, replica: str) -> None:
        self.number = number
        self.replica = replica
        self.gate = threading.Event()


class World:
    """What user code and the test share: user code is loaded by reference. The clock stands while a thread is on its
    way from one halt to the next: such are user code that has begun, and the sleep of a thread without work."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self.loop = loop
        self.starts: dict[int, list[str]] = {}
        self.running: list[Run] = []
        self.answered: set[int] = set()

    def run(self, replica: str, number: int) -> str:
        run = Run(number, replica)
        self.starts.setdefault(number, []).append(replica)
        self.running.append(run)
        self.loop.call_soon_threadsafe(self.halt)
        run.gate.wait()
        return f"answer {number}"

    def end(self, run: Run) -> None:
        """On the loop."""
        if run in self.running:
            self.running.remove(run)
            self.go_on()
            run.gate.set()

    def go_on(self) -> None:
        self.loop._at_work += 1

    def halt(self) -> None:
        self.loop._at_work -= 1

    def watch(self, executor: SyncExecutor[Any]) -> None:
        """Know when its thread, which sleeps now, is woken and sleeps again."""
        executor._waker = Waker(self, executor._waker)  # type: ignore[assignment]


class Waker:
    """The lock that an executor's thread sleeps on, which tells the world of sleeping and waking."""

    def __init__(self, world: World, lock: Any) -> None:
        self._world = world
        self._lock = lock

    def acquire(self, timeout: float = -1) -> bool:
        self._world.loop.call_soon_threadsafe(self._world.halt)
        return bool(self._lock.acquire(timeout=timeout))

    def release(self) -> None:
        self._world.go_on()
        self._lock.release()


WORLD: World


class Model:
    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, request: Any) -> str:
        return WORLD.run(self.name, int(request.body()))


class Pace:
    """In place of what calls have taken: in virtual time they take none."""

    def __init__(self) -> None:
        self.us = 0

    def note(self, seconds: float) -> None: ...


class Replica(MemoryReplica):
    """Notes which calls have begun, as real ones do."""

    def __init__(self, name: str, folder: str) -> None:
        super().__init__(Model, name, config=ReplicaConfig(max_concurrent_queries=LIMIT))
        self.name, self.pace = name, Pace()
        self.ref = msgspec.structs.replace(self.ref, address=str(Path(folder) / name))

    async def __aenter__(self) -> Replica:
        self._runtime = runtime = Runtime(self._config, started=StartedLedger(StartedCalls(path_of(self.ref.address))))
        with WORLD.loop.real_time():
            await runtime.load_code(self._code, self._traits)
            while not runtime._worker._asleep:
                await asyncio.sleep(0.001)
        runtime._on_thread._run_time = self.pace  # type: ignore[assignment]
        WORLD.watch(runtime._worker)
        self.listen(runtime)
        return self


class Recalls(RuleBasedStateMachine):
    """Callers, an operator, user code, death, and time."""

    @initialize(count=st.integers(2, 3), us=st.sampled_from([500, 2000, 20_000]))
    def begin(self, count: int, us: int) -> None:
        global WORLD
        self.loop = VirtualTimeLoop()
        self.world = WORLD = World(self.loop)
        self.folder = tempfile.TemporaryDirectory()
        self.us, self.version, self.delay_s = us, 0, 0.0
        self.calls: dict[int, Call] = {}
        self.cancelled: set[int] = set()
        self.dead: set[str] = set()
        self.replicas: list[Replica] = []
        self.listed: list[Replica] = []
        self.routers: list[Router] = []
        self._do(self._open(count))

    async def _open(self, count: int) -> None:
        self.routers = [Router(instance=INSTANCE) for _ in range(2)]
        for _ in range(count):
            await self._start_replica()
        self._publish()

    async def _start_replica(self) -> None:
        replica = Replica(f"r{len(self.replicas)}", self.folder.name)
        replica.pace.us = self.us
        await replica.__aenter__()
        self.replicas.append(replica)
        self.listed.append(replica)

    def _publish(self) -> None:
        self.version += 1
        table = table_of(
            self.version, {"b": list(self.listed)}, max_concurrent_queries=LIMIT, max_queued_queries=1000,
            one_at_a_time=True,
        )  # fmt: skip
        for router in self.routers:
            router.apply(table)

    def _do(self, work: Awaitable[T] | None = None) -> T | None:
        """Run something, and then all that follows from it without time passing."""

        async def main() -> T | None:
            result = await work if work is not None else None
            await settle()
            return result

        return self.loop.run_until_complete(main())

    def _open_calls(self) -> list[int]:
        return [number for number, call in self.calls.items() if not call.is_over()]

    def _alive(self) -> list[Run]:
        return sorted((run for run in self.world.running if run.replica not in self.dead), key=lambda run: run.number)

    @rule(
        count=st.sampled_from([1, 2, 4, 12]),
        which=st.integers(0, 1),
        idempotent=st.booleans(),
        timeout_s=st.sampled_from([NEVER_S, NEVER_S, NEVER_S, SOON_S]),
    )
    def submit(self, count: int, which: int, idempotent: bool, timeout_s: float) -> None:
        async def work() -> None:
            for _ in range(count):
                number = len(self.calls) + 1
                call = new_call(
                    codec=CODEC_HTTP, http_method="POST", body=b"%d" % number, timeout_s=timeout_s,
                    idempotent=idempotent,
                )  # fmt: skip
                self.calls[number] = call
                self.routers[which].submit(call)

        self._do(work())

    @rule(picks=st.lists(PICK, min_size=1, max_size=3))
    def finish(self, picks: list[int]) -> None:
        """Some end at once."""
        alive = self._alive()

        async def work() -> None:
            for pick in picks if alive else []:
                self.world.end(alive[pick % len(alive)])

        self._do(work())

    @rule(pick=PICK, after_s=st.sampled_from([0.001, LEAD_S - 0.001, LEAD_S, LEAD_S + 0.001, 2 * LEAD_S]))
    def finish_later(self, pick: int, after_s: float) -> None:
        """One ends about when its replica is asked for what waits behind it."""
        alive = self._alive()

        async def work() -> None:
            if alive:
                self.loop.call_later(after_s, self.world.end, alive[pick % len(alive)])
            await asyncio.sleep(after_s)

        self._do(work())

    @rule(seconds=st.sampled_from([0.001, LEAD_S / 2, LEAD_S, 0.02, 0.05, SOON_S]))
    def wait(self, seconds: float) -> None:
        self._do(asyncio.sleep(seconds))

    @rule(delay_s=st.sampled_from([0.0, 0.0, 0.001, 0.006]))
    def slow_down(self, delay_s: float) -> None:
        """Frames take their time, so that a recall and what it is about cross."""
        self.delay_s = delay_s
        self._set_delays()

    def _set_delays(self) -> None:
        for replica in self.replicas:
            for pipe in replica.pipes:
                pipe.delay(self.delay_s)

    @rule(us=st.sampled_from([500, 2000, 20_000]))
    def other_pace(self, us: int) -> None:
        self.us = us
        for replica in self.replicas:
            replica.pace.us = us

    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        waiting = self._open_calls()
        if not waiting:
            return
        number = waiting[pick % len(waiting)]

        async def work() -> None:
            self.cancelled.add(number)
            for router in self.routers:
                if self.calls[number] in router_calls(router):
                    router.cancel(self.calls[number])

        self._do(work())

    @precondition(lambda self: len(self.replicas) < 7)
    @rule(successor=st.booleans(), pick=PICK)
    def die(self, successor: bool, pick: int) -> None:
        """A replica dies. Its user code, of which nothing is left in truth, stands still."""
        replica = self.listed[pick % len(self.listed)]

        async def work() -> None:
            self.dead.add(replica.name)
            replica.die()
            self.listed.remove(replica)
            if successor or not self.listed:
                await self._start_replica()
            self._publish()

        self._do(work())

    @precondition(lambda self: len(self.replicas) < 7 and len(self.listed) > 1)
    @rule(pick=PICK)
    def scale_in(self, pick: int) -> None:
        """A replica is in no table any more, and ends what it runs."""
        del self.listed[pick % len(self.listed)]

        async def work() -> None:
            self._publish()

        self._do(work())

    @precondition(lambda self: len(self.replicas) < 7)
    @rule()
    def scale_out(self) -> None:
        async def work() -> None:
            await self._start_replica()
            self._publish()

        self._do(work())

    @rule()
    def rest(self) -> None:
        """After some milliseconds no call waits while a replica has nothing to do, whoever sent what runs."""
        self.delay_s = 0.0
        self._set_delays()
        self._do(asyncio.sleep(0.2))
        busy = {run.replica for run in self.world.running}
        idle = [replica.name for replica in self.listed if replica.name not in busy]
        waiting = [
            number
            for number in self._open_calls()
            if all(replica in self.dead for replica in self.world.starts.get(number, []))
        ]
        assert not (idle and waiting), f"{waiting} wait while {idle} could begin them; {busy} are busy"

    @invariant()
    def nothing_wrong_was_seen(self) -> None:
        assert not self.loop.unhandled, self.loop.unhandled
        replicas = [run.replica for run in self._alive()]
        assert len(replicas) == len(set(replicas)), f"a replica runs two calls at once: {self._alive()}"
        for router in self.routers:
            router.validate()

    @invariant()
    def nothing_runs_twice(self) -> None:
        for number, replicas in self.world.starts.items():
            if len(replicas) > 1:
                assert self.calls[number].idempotent, f"{number} ran twice, and may not"
                assert len(replicas) == 2, f"{number} ran {len(replicas)} times"
                assert replicas[0] in self.dead, f"{number} ran again though its replica lives"

    @invariant()
    def everybody_gets_what_is_theirs(self) -> None:
        for number, call in self.calls.items():
            future: asyncio.Future[Any] = call.future  # type: ignore[assignment]
            if not future.done() or number in self.cancelled:
                continue
            error = future.exception()
            starts = self.world.starts.get(number, [])
            if isinstance(error, ReplicaDiedError):
                assert starts, f"{number} had not begun, and was not placed elsewhere"
                assert starts[-1] in self.dead
                assert not call.idempotent or len(starts) == 2
            elif isinstance(error, DeadlineExceededError):
                assert self.loop.time() >= call.deadline
            else:
                assert future.result().body == b"answer %d" % number
                assert starts

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.rest()
            for _ in range(len(self.calls) + 1):  # nothing is lost: each of them ends when user code and time go on
                if not self._open_calls():
                    break
                self._do(self._end_all())
                self.rest()
                self.nothing_runs_twice()
            self.nothing_wrong_was_seen()
            self.everybody_gets_what_is_theirs()
            assert not self._open_calls(), "calls were lost"
            self._do(self._end_all())
            self._do(asyncio.sleep(0.2))
            for replica in self.replicas:
                assert replica.runtime.load == 0 or replica.name in self.dead, "a replica keeps calls that have ended"
            for router in self.routers:
                assert all(remote.may_hold for remote in router._pools["b"]._candidates), "a replica stays shut"
        finally:
            self._close()

    async def _end_all(self) -> None:
        for run in self._alive():
            self.world.end(run)

    def _close(self) -> None:
        async def work() -> None:
            for router in self.routers:
                await router.aclose()
            for replica in self.replicas:
                replica.die()
            for run in list(self.world.running):
                self.world.end(run)
            for replica in self.replicas:
                replica.runtime._worker.stop()
            with self.loop.real_time():
                self.loop._at_work = 0
                for replica in self.replicas:
                    await replica.runtime._worker.run_elsewhere(replica.runtime._worker._os_thread.join)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        with contextlib.closing(self.loop):
            self.loop.run_until_complete(work())
        self.folder.cleanup()


def router_calls(router: Router) -> list[Call]:
    """All that a router has."""
    pool = router._pools["b"]
    remotes = (*pool._candidates, *pool._retiring)
    return [*pool._waiting, *(call for remote in remotes for call in remote._calls.values())]


def test_no_call_is_lost_or_runs_twice() -> None:
    """Whatever is called back from whom while calls begin, end and are given up, and replicas come, go and die: each
    call runs once, or twice where it may and its replica died; none is lost; and none waits while a replica of its
    backend has nothing to do (BC6, G1, G2, F1)."""
    run_state_machine_as_test(Recalls, settings=examples(100, stateful_step_count=40, database=None))
