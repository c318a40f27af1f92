"""Calls that name models come as they like, are given up, and lose replicas: each has its end."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from typing import Any

import msgspec
import pytest

from pointsman.exceptions import DeadlineExceededError, ReplicaDiedError
from pointsman.routing.call import Call
from pointsman.routing.router import Router
from pointsman.testing import INSTANCE, ScriptedReplica, new_call, run, settle, table_of, virtual_loop
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.messages import AppCallHead, ReplyHead, pack, unpack
from pointsman.wire.stream import Stream

ANSWER = pack(ReplyHead(200, [], 0))
LIMIT, PLACES, LOAD_S = 2, 3, 0.3
Waiting = tuple[Stream, int]


class Host(ScriptedReplica):
    """Keeps up to three models, gives up none that is in use, and runs calls for as long as chance says.

    Attributes:
        most: calls that have run at a time.
        loads: how often each model was loaded.
    """

    def __init__(self, number: int, chance: random.Random) -> None:
        super().__init__()
        self.ref = msgspec.structs.replace(self.ref, number=number)
        self.most = 0
        self.loads: Counter[str] = Counter()
        self._chance = chance
        self._used: dict[str, float] = {}
        self._in_use: Counter[str] = Counter()
        self._wanted: dict[str, list[Waiting]] = {}
        self._loading: set[str] = set()
        self._ready: deque[tuple[str, Waiting]] = deque()
        self._running = 0

    def stream_ready(self, stream: Stream) -> None:
        super().stream_ready(stream)
        self._told(whole=True, held=tuple(self._used), loading=dict.fromkeys(self._wanted, 1))

    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.kind == Kind.CALL:
                self._come(unpack(frame.head, AppCallHead).request.model_id, (stream, frame.call_id))
            elif frame.kind == Kind.CANCEL:
                for waiting in self._wanted.values():
                    waiting[:] = [one for one in waiting if one != (stream, frame.call_id)]
                self._ready = deque(one for one in self._ready if one[1] != (stream, frame.call_id))

    def _come(self, model: str, waiting: Waiting) -> None:
        if not model or model in self._used:
            self._ready.append((model, waiting))
            self._begin()
        else:
            self._wanted.setdefault(model, []).append(waiting)
            self._told(loading={model: len(self._wanted[model])})
            self._load()

    def _load(self) -> None:
        for model in [name for name in self._wanted if name not in self._loading]:
            if len(self._used) + len(self._loading) >= PLACES:
                busy = {name for name, _ in self._ready} | {name for name, count in self._in_use.items() if count}
                idle = [name for name in self._used if name not in busy]
                if not idle:
                    return
                gone = min(idle, key=self._used.__getitem__)
                del self._used[gone]
                self._told(gone=(gone,))
            self._loading.add(model)
            virtual_loop().call_later(LOAD_S * self._chance.uniform(0.5, 1.5), self._loaded, model)

    def _loaded(self, model: str) -> None:
        self._loading.discard(model)
        self.loads[model] += 1
        self._used[model] = virtual_loop().time()
        self._told(held=(model,))
        self._ready.extend((model, waiting) for waiting in self._wanted.pop(model))
        self._begin()

    def _begin(self) -> None:
        while self._ready and self._running < LIMIT:
            model, waiting = self._ready.popleft()
            self._running += 1
            self._in_use[model] += 1
            self.most = max(self.most, self._running)
            if model:
                self._used[model] = virtual_loop().time()
            virtual_loop().call_later(self._chance.expovariate(1 / 0.1), self._end, model, waiting)

    def _end(self, model: str, waiting: Waiting) -> None:
        self._running -= 1
        self._in_use[model] -= 1
        stream, call_id = waiting
        if not stream.closed:
            stream.send(Kind.REPLY, call_id, ANSWER)
        self._begin()
        self._load()

    def _told(self, **head: Any) -> None:
        room = max(0, PLACES - len(self._used) - len(self._wanted))
        self.tell(room=room, load_s=LOAD_S, **head)


async def callers(router: Router, chance: random.Random, per_second: float, seconds: float) -> list[Call]:
    """Calls for eight models, or none, some of which are given up."""
    calls: list[Call] = []
    ends = virtual_loop().time() + seconds
    while virtual_loop().time() < ends:
        model = chance.choice(["", *(f"m{int(chance.paretovariate(1)) % 8}" for _ in range(5))])
        call = new_call(model_id=model, idempotent=True, timeout_s=chance.choice([0.2, 5.0, 300.0]))
        calls.append(call)
        router.submit(call)
        if chance.random() < 0.05:
            virtual_loop().call_later(chance.uniform(0, 1), router.cancel, call)
        await asyncio.sleep(chance.expovariate(per_second))
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_every_call_has_its_end(seed: int) -> None:
    """Two routers call three replicas near their limit; calls are given up or late; one replica dies and is replaced.
    Every call is answered, given up, late, or was running in the replica that died; none is left behind, and when all
    is over nothing waits (MX5, MX6, MX8)."""

    async def main() -> None:
        chance = random.Random(seed)
        hosts = [Host(number, chance) for number in (1, 2, 3, 4)]
        options: dict[str, Any] = {"multiplexed": True, "max_concurrent_queries": LIMIT, "max_queued_queries": 10_000}
        routers = [Router(instance=INSTANCE) for _ in range(2)]
        for router in routers:
            router.apply(table_of(1, {"b": hosts[:3]}, **options))
        await settle()
        coming = [asyncio.ensure_future(callers(router, chance, 28.0, 10.0)) for router in routers]
        await asyncio.sleep(4.0)
        hosts[1].die()
        await asyncio.sleep(1.0)
        for router in routers:
            router.apply(table_of(2, {"b": [hosts[0], hosts[2], hosts[3]]}, **options))
        calls = [call for some in coming for call in await some]
        results = await asyncio.gather(*(call.future for call in calls), return_exceptions=True)  # type: ignore[arg-type]
        errors = Counter(type(one) for one in results if isinstance(one, BaseException))
        assert set(errors) <= {DeadlineExceededError, asyncio.CancelledError, ReplicaDiedError}, errors
        assert errors[ReplicaDiedError] <= 2 * LIMIT
        late = [call for call, one in zip(calls, results, strict=True) if isinstance(one, DeadlineExceededError)]
        assert len(late) < len(calls) / 3
        assert not any(host.loads[f"m{number}"] > 60 for host in hosts for number in range(8))
        for router in routers:
            statistics = router.statistics()[0]
            assert (statistics.waiting, statistics.inflight) == (0, 0)
            router.validate()
            await router.aclose()

    run(main())
