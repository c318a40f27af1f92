"""How often a call finds its model loaded: routers over four replicas, against one cache with all of their places."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import OrderedDict

import msgspec
import pytest

from pointsman.routing.router import Router
from pointsman.testing import INSTANCE, ScriptedReplica, new_call, run, settle, table_of
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.messages import AppCallHead, ReplyHead, pack, unpack
from pointsman.wire.stream import Stream

LOAD_S = 0.5
ANSWER = pack(ReplyHead(200, [], 0))


class Loading(ScriptedReplica):
    """Holds so many models, the last that were used; a load takes ``LOAD_S``, and a call no time."""

    def __init__(self, number: int, places: int) -> None:
        super().__init__()
        self.models: OrderedDict[str, None] = OrderedDict()
        self.loads = 0
        self._places = places
        self._waiting: dict[str, list[tuple[Stream, int]]] = {}
        self.ref = msgspec.structs.replace(self.ref, number=number)

    def stream_frames(self, stream: Stream, frames: list[Frame]) -> None:
        for frame in frames:
            assert frame.kind == Kind.CALL
            model = unpack(frame.head, AppCallHead).request.model_id
            if model in self.models:
                self.models.move_to_end(model)
                stream.send(Kind.REPLY, frame.call_id, ANSWER)
                continue
            waiting = self._waiting.setdefault(model, [])
            waiting.append((stream, frame.call_id))
            if len(waiting) == 1:
                self.loads += 1
                self.tell(loading={model: 1}, room=self._room(), load_s=LOAD_S)
                asyncio.get_running_loop().call_later(LOAD_S, self._loaded, model)

    def _loaded(self, model: str) -> None:
        gone = (self.models.popitem(last=False)[0],) if len(self.models) == self._places else ()
        self.models[model] = None
        waiting = self._waiting.pop(model)
        self.tell(held=(model,), gone=gone, room=self._room(), load_s=LOAD_S)
        for stream, call_id in waiting:
            stream.send(Kind.REPLY, call_id, ANSWER)

    def _room(self) -> int:
        return max(0, self._places - len(self.models) - len(self._waiting))


def zipf(models: int, count: int, seed: int) -> list[str]:
    """Names of models, the k-th as often as ``1 / k``."""
    weights = list(itertools.accumulate(1 / rank for rank in range(1, models + 1)))
    return [f"model-{k}" for k in random.Random(seed).choices(range(models), cum_weights=weights, k=count)]


def hits_of_one(names: list[str], places: int) -> int:
    """Hits of one cache that keeps those that were used last."""
    kept: OrderedDict[str, None] = OrderedDict()
    hits = 0
    for name in names:
        hits += name in kept
        kept[name] = None
        kept.move_to_end(name)
        if len(kept) > places:
            kept.popitem(last=False)
    return hits


@pytest.mark.parametrize(("first", "seed"), [(1, 1), (11, 2), (4001, 3)])
def test_four_replicas_hit_nearly_as_often_as_one_cache(first: int, seed: int) -> None:
    """Of 200 models that are asked for by Zipf's law, four replicas with ten places each have the wanted one loaded at
    least 95 % as often as one cache of forty would, whatever numbers the replicas have (SF4)."""

    async def main() -> None:
        replicas = [Loading(number, places=10) for number in range(first, first + 4)]
        router = Router(instance=INSTANCE)
        router.apply(table_of(1, {"b": replicas}, multiplexed=True))
        await settle()
        names = zipf(200, 4000, seed)
        for name in names:
            call = new_call(model_id=name)
            router.submit(call)
            await call.future
        router.validate()
        await router.aclose()
        loads = sum(replica.loads for replica in replicas)
        hits = len(names) - loads
        assert hits >= 0.95 * hits_of_one(names, 40), f"{hits} hits, {hits_of_one(names, 40)} of one cache"

    run(main())


def test_many_callers_load_a_model_once() -> None:
    """Callers at once through two routers, whose calls come while models are being loaded, cause as few loads as the
    models take places: each is loaded once while there is room (MX5)."""

    async def main() -> None:
        replicas = [Loading(number, places=60) for number in range(1, 5)]
        table = table_of(1, {"b": replicas}, multiplexed=True)
        routers = [Router(instance=INSTANCE) for _ in range(2)]
        for router in routers:
            router.apply(table)
        await settle()
        calls = []
        for router, name in zip(itertools.cycle(routers), zipf(100, 2000, seed=4)):
            calls.append(new_call(model_id=name))
            router.submit(calls[-1])
            if len(calls) % 20 == 0:
                await asyncio.sleep(0.05)
        await asyncio.gather(*(call.future for call in calls))
        names = {call.request.model_id for call in calls}
        assert sum(replica.loads for replica in replicas) == len(names)
        for router in routers:
            router.validate()
            await router.aclose()

    run(main())
