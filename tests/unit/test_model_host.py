"""multiplexing.host: the cache with its threads, under callers on many threads and loops."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pointsman.context import CallScope, UsedModels, call_scope
from pointsman.multiplexing.cache import Cause
from pointsman.multiplexing.host import Host
from pointsman.multiplexing.waiting import NoObserver
from tests.conftest import wait_until
from tests.properties import tries

LIMIT_S = 20.0


class Model:
    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True


class Memory:
    """Counts what is in memory, and notes what must not be."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self.names: list[str] = []
        self.loads = 0
        self.wrong: list[str] = []

    def load(self, name: str) -> Model:
        with self._lock:
            if name in self.names:
                self.wrong.append(f"{name} was loaded twice")
            self.names.append(name)
            self.loads += 1
            if len(self.names) > self._limit:
                self.wrong.append(f"{len(self.names)} models were there")
        if name == "bad" and self.loads % 2:
            with self._lock:
                self.names.remove(name)
            raise OSError(name)
        return Model(name)

    def unload(self, model: Model) -> None:
        with self._lock:
            if not model.alive:
                self.wrong.append(f"{model.name} was unloaded twice")
            model.alive = False
            self.names.remove(model.name)


class Emptied(NoObserver):
    def __init__(self) -> None:
        self.event = threading.Event()

    def emptied(self) -> None:
        self.event.set()


def in_call(work: Any) -> Any:
    """Run a function within the scope of a call, and end that."""
    scope = CallScope(float("inf"), "r")
    scope.models = UsedModels()
    call_scope.set(scope)
    try:
        return work()
    finally:
        call_scope.set(None)
        scope.models.end()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_callers_on_many_threads_share_few_models(seed: int) -> None:
    """Six threads of sync code and two event loops ask for seven models with room for three: each gets a live one, the
    limit holds, and in the end each model that was loaded was unloaded once (MX5, MX7, MX8)."""
    memory = Memory(3)
    host = Host(memory.load, max_models=3, unload=memory.unload)
    host.observer = emptied = Emptied()
    names = ["a", "b", "c", "d", "e", "f", "bad"]
    rounds = tries(60, 600)

    def ask(chance: random.Random) -> str:
        try:
            model = host.call(chance.choice(names))
        except OSError as error:
            return str(error)
        return "alive" if model.alive else f"dead {model.name}"

    def sync_calls(number: int) -> set[str]:
        chance = random.Random(seed * 100 + number)
        return {in_call(lambda: ask(chance)) for _ in range(rounds)}

    async def async_call(chance: random.Random) -> str:
        scope = CallScope(float("inf"), "r")
        scope.models = UsedModels()
        call_scope.set(scope)
        try:
            model = await asyncio.wait_for(host.call(chance.choice(names)), chance.choice((0.0005, LIMIT_S)))
            return "alive" if model.alive else f"dead {model.name}"
        except asyncio.TimeoutError:
            return "alive"
        except OSError as error:
            return str(error)
        finally:
            scope.models.end()

    def loop_calls(number: int) -> set[str]:
        chance = random.Random(seed * 100 + number)

        async def main() -> set[str]:
            seen: set[str] = set()
            for _ in range(rounds // 5):
                seen.update(await asyncio.gather(*(asyncio.ensure_future(async_call(chance)) for _ in range(5))))
            return seen

        return asyncio.run(main())

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(sync_calls, number) for number in range(6)]
        calls += [pool.submit(loop_calls, number) for number in (6, 7)]
        seen = set().union(*(call.result(LIMIT_S * 5) for call in calls))
    assert seen <= {"alive", "bad"}
    host.validate()
    assert not any(model.in_use for model in host.models())
    host.close()
    assert emptied.event.wait(LIMIT_S)
    assert memory.wrong == []
    assert memory.names == []
    assert host.is_closed


def test_a_system_without_threads_fails_the_load_and_still_unloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no more threads, callers get that as their error, and an unload comes later (MX9)."""
    monkeypatch.setattr("pointsman.multiplexing.host.RETRY_S", 0.01)
    spare = threading.Event()

    def spawn(function: Any, name: str) -> None:
        if not spare.is_set():
            raise RuntimeError("can't start new thread")
        threading.Thread(target=function, daemon=True).start()

    gone: list[str] = []
    host = Host(str.upper, max_models=1, unload=gone.append, spawn=spawn)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        host.get("a")
    spare.set()
    assert host.get("b") == "B"
    spare.clear()
    host.close()
    wait_until(lambda: gone == ["B"])


def test_many_models_are_unloaded_by_few_threads() -> None:
    """At the end of a replica that holds hundreds of models each is unloaded once, by no more than 32 threads (MX8)."""
    began: list[str] = []

    def spawn(function: Any, name: str) -> None:
        began.append(name)
        threading.Thread(target=function, daemon=True).start()

    gone: list[str] = []
    host = Host(str.upper, unload=gone.append, spawn=spawn)
    names = [f"m{number}" for number in range(300)]
    for name in names:
        assert host.get(name) == name.upper()
    host.close()
    wait_until(lambda: len(gone) == 300)
    assert sorted(gone) == sorted(map(str.upper, names))
    assert began.count("unload") <= 32


def test_after_the_end_nobody_gets_a_model() -> None:
    """User code that asks for a model once its replica has ended is told so, in words (MX8)."""
    host = Host(str.upper, max_models=1)
    assert host.get("a") == "A"
    host.close()
    with pytest.raises(Exception, match="no models are loaded any more, since the replica ends"):
        host.get("b")


def test_an_exception_that_ends_loops_is_wrapped() -> None:
    """``SystemExit`` and ``StopIteration`` of a loader become an error that a future can carry (MX9)."""
    for error in (SystemExit(3), StopIteration(), KeyboardInterrupt()):
        wrapped = Cause.of(error).again()
        assert isinstance(wrapped, RuntimeError)
        assert type(error).__name__ in str(wrapped)
        assert wrapped.__cause__ is error
    plain = OSError("disk on fire")
    assert Cause.of(plain).again() is plain
