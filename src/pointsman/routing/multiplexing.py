"""The pool of a backend that loads models by id, and what its replicas say of the models that they hold.

A call that names no model goes as in any other pool. One that does goes where its model is, or where it is to be
loaded; there it waits for the load without taking one of the replica's places for calls. A call that waits here for a
busy holder of its model is passed by calls that need not wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import cast

from pointsman.model import BackendRoute, ReplicaRef
from pointsman.policy.balance import choose_replica
from pointsman.policy.multiplexing import FatalLoads, choose_loader, patience_s, where_to_load
from pointsman.routing.call import Call
from pointsman.routing.metrics import RouterMetrics
from pointsman.routing.pool import Pool
from pointsman.routing.refusals import load_died
from pointsman.routing.remote import CONNECT_S, RemoteOwner, RemoteReplica
from pointsman.routing.reports import Reporter
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.messages import unpack
from pointsman.wire.scaling import ANY_NUMBER, ModelsHead
from pointsman.wire.stream import Stream

_MODELS = int(Kind.MODELS)
HEAR_S = 0.5
"""How long a replica that is connected may take to tell what it holds. It does so at once, unless its version of the
backend loads no models."""


class ModelReplica(RemoteReplica):
    """A replica that loads models by id. Calls that wait there for a model are not ``inflight`` and not ``held``.

    Args:
        on_models: called when it holds or loads other models than before.
        on_lost: called when it is lost, with the models that calls wait for there.

    Attributes:
        room, load_s: as it has told in a :class:`~pointsman.wire.scaling.ModelsHead`.
        known: whether it has told what it holds, or nobody waits for that.
    """

    def __init__(
        self,
        ref: ReplicaRef,
        owner: RemoteOwner,
        *,
        instance: str,
        on_models: Callable[[], None],
        on_lost: Callable[[set[str]], None],
    ) -> None:
        super().__init__(ref, owner, instance=instance)
        self.number = ref.number
        self.room = ANY_NUMBER
        self.load_s = 0.0
        self._on_models = on_models
        self._on_lost = on_lost
        self._models: set[str] = set()
        self._loading: set[str] = set()
        self.known = False
        self._places = 0  # for models; 0 while that is not known
        self._await: dict[int, str] = {}  # the model, by id of each call that waits for it
        self._awaited: dict[str, set[int]] = {}  # ids of these calls, by model
        self._loop.call_later(CONNECT_S, self._wait_no_more)

    @property
    def waits_for_room(self) -> bool:
        return self.room == 0 < self._places < len(self._models) + len(self._loading)

    def holds(self, model_id: str) -> bool:
        return model_id in self._models

    def awaiting(self, model_id: str) -> int | None:
        calls = self._awaited.get(model_id)
        return len(calls) if calls else 0 if model_id in self._loading else None

    @property
    def waits(self) -> int:
        return len(self._await)

    @property
    def inflight(self) -> int:
        return len(self._calls) + len(self._streams) - len(self._sockets) - len(self._await)

    @property
    def held(self) -> int:
        return len(self._calls) - len(self._await)

    @property
    def silent_since(self) -> float | None:
        return super().silent_since if self.held else None  # it does not send back those that wait for models

    def send(self, call: Call) -> None:
        RemoteReplica.send(self, call)  # hot: `super()` makes an object each time
        model_id = call.request.model_id
        if model_id and model_id not in self._models and call.call_id in self._calls and not call.is_socket:
            self._waits_for(call.call_id, model_id)

    def cancel(self, call: Call) -> None:
        self._waits_no_more(call.call_id)
        super().cancel(call)

    def stream_ready(self, stream: Stream) -> None:
        self.known = False
        self._loop.call_later(HEAR_S, self._wait_no_more)
        super().stream_ready(stream)

    def _wait_no_more(self) -> None:
        if not self.known:
            self.known = True
            self._on_models()
            self._owner.place_waiting()

    def stream_lost(self, stream: Stream, error: Exception | None) -> None:
        self.known = True
        self._on_lost(set(self._await.values()))
        self._models.clear()
        self._loading.clear()
        self._await.clear()
        self._awaited.clear()
        self._on_models()
        super().stream_lost(stream, error)

    def _receive(self, frame: Frame) -> None:
        if frame.kind == _MODELS:
            self._told(unpack(frame.head, ModelsHead))
            return
        if self._await and frame.kind != Kind.CREDIT:
            self._waits_no_more(frame.call_id)
        RemoteReplica._receive(self, frame)

    def _waits_for(self, call_id: int, model_id: str) -> None:
        self._await[call_id] = model_id
        self._awaited.setdefault(model_id, set()).add(call_id)

    def _waits_no_more(self, call_id: int) -> None:
        model_id = self._await.pop(call_id, None)
        if model_id is not None:
            calls = self._awaited[model_id]
            calls.discard(call_id)
            if not calls:
                del self._awaited[model_id]

    def _told(self, head: ModelsHead) -> None:
        lost = set(self._models) if head.whole else self._models.intersection((*head.gone, *head.loading))
        self._models -= lost
        if head.whole:
            self.known = True
            self._loading.clear()
        self._models.update(head.held)
        self._loading.update(head.loading)
        self._loading.difference_update(head.gone, head.held)
        self.room, self.load_s = head.room, head.load_s
        if head.room > 0:
            self._places = max(self._places, head.room + len(self._models) + len(self._loading))
        # hot: a thousand calls may wait, and each load is told twice
        for model_id in head.held:
            for call_id in self._awaited.pop(model_id, ()):
                del self._await[call_id]
        lost -= self._models
        if lost and self.held:  # a call that was sent for a model which was here waits if that has made room meanwhile
            for call_id, call in self._calls.items():
                if call.request.model_id in lost and call_id not in self._await and not call.is_socket:
                    self._waits_for(call_id, call.request.model_id)
        self._on_models()


class ModelPool(Pool):
    """Places calls on the replicas of a backend that loads models by id. Arguments as of :class:`Pool`."""

    def __init__(
        self,
        route: BackendRoute,
        *,
        instance: str,
        reroute: Callable[[Call], None],
        metrics: RouterMetrics | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self._came: dict[int, float] = {}  # when a call came into the queue, by its arrival
        self._late: asyncio.TimerHandle | None = None
        self._late_at = inf  # uvloop's handles do not all say that
        self._holders: dict[str, list[ModelReplica]] = {}  # by model, as far as somebody has asked
        self._fatal = FatalLoads()
        self._has_news = False
        self._opened: list[int] = []
        super().__init__(route, instance=instance, reroute=reroute, metrics=metrics, reporter=reporter)
        self._may_pass = True
        self._sockets.prefer = self._best_for_socket

    def update(self, route: BackendRoute) -> None:
        for ref in route.replicas:
            if ref.number not in self._remotes:
                told, lost = self._models_changed, self._replica_lost
                remote = ModelReplica(ref, self, instance=self._instance, on_models=told, on_lost=lost)
                remote.counts = self.demand.counts
                self._remotes[ref.number] = remote
                remote.start()
        self._models_changed()
        super().update(route)

    async def aclose(self, reason: str) -> None:
        if self._late is not None:
            self._late.cancel()
        await super().aclose(reason)

    def validate(self) -> None:
        super().validate()
        assert self._came.keys() == {call.arrival for call in self._waiting}, "times are kept of calls that do not wait"

    def place_waiting(self) -> None:
        # hot: after each answer, and nearly always nothing waits.
        if not (self._waiting or self._overflow or self._shadows or self._recalls or self._sockets.waiting):
            return
        if self._waiting or self._overflow:
            self._admit_overflow()
            while self._waiting and self._place_by_model() and self._overflow:
                self._admit_overflow()
        if not self._waiting:
            super().place_waiting()
        elif self._sockets.waiting:
            self._sockets.place_waiting(self._candidates, self._route)
            self._queue_changed()

    def _place_by_model(self) -> bool:
        """Place the waiting calls for which there is a place, in order of arrival. Returns whether one was."""
        opened = [one.ref.number for one in self._candidates if one.open]
        # Without news a call that found no replica to load its model will find none now.
        news, self._has_news, self._opened = self._has_news or opened != self._opened, False, opened
        placed, due = False, inf
        stuck: set[str] = set()
        for call in list(self._waiting):
            model_id = call.request.model_id
            if model_id in stuck:
                continue
            if not news and not self._has_free_place():
                break
            if call.is_over() or self._send(call):
                placed = True
                self._waiting.remove(call)
                self._queued[call.request.endpoint] -= 1
                self._count_waiting(call, -1)
                self._came.pop(call.arrival, None)
            else:
                stuck.add(model_id)
                due = min(due, self._due(call))
        self._look_again_at(due)
        return placed

    def _has_free_place(self) -> bool:
        limit = self._route.max_concurrent_queries
        return choose_replica(self._candidates, limit=limit, turn=0, crowded=True) is not None

    def _due(self, call: Call) -> float:
        """When a call that waits for a busy holder will have waited too long; infinite where it has, or waits for what
        time does not change."""
        model_id = call.request.model_id
        wait_s = patience_s(model_id, self._models(), self._holders_of(model_id))
        due = self._came[call.arrival] + wait_s if wait_s else inf
        return due if due > self._loop.time() else inf

    def _look_again_at(self, due: float) -> None:
        if due < self._late_at:
            if self._late is not None:
                self._late.cancel()
            self._late_at, self._late = due, self._loop.call_at(due, self._look_for_late)

    def _look_for_late(self) -> None:
        self._late_at, self._late = inf, None
        self.place_waiting()

    def _send(self, call: Call) -> bool:
        if self._fatal.deaths and self._fatal.refuses(call.request.model_id, self._loop.time()):
            call.fail(load_died(self.tag, call.request.model_id))
            return True
        return Pool._send(self, call)  # hot: `super()` makes an object each time

    def _choose(self, call: Call) -> RemoteReplica | None:
        model_id = call.request.model_id
        if not model_id:
            return super()._choose(call)
        limit, holders = self._route.max_concurrent_queries, self._holders.get(model_id)
        if holders is None:
            holders = self._holders_of(model_id)
        halved = call.shadow and self.serves_users
        if holders:
            crowded = not self._recalls or len(holders) == 1 or len(self._waiting) >= len(self._candidates)
            best = choose_replica(holders, limit=limit, turn=self._next_turn, halved=halved, crowded=crowded)
            if best is not None:
                return best
        if not all(one.known for one in self._models()):
            return None  # one that has just been connected may hold it, or may be where it belongs
        # Of the calls for one model only the first that waits is tried, unless it was placed.
        came = self._came.get(call.arrival)
        waited_s = 0.0 if came is None else self._loop.time() - came
        most = max(limit, self._route.max_queued_queries)
        candidates = self._models()
        return choose_loader(model_id, candidates, holders, limit=limit, most=most, waited_s=waited_s, halved=halved)

    def _best_for_socket(self, call: Call, free: list[ModelReplica]) -> list[ModelReplica]:
        """Those of the replicas with a place for a socket that are best for its model."""
        model_id = call.request.model_id
        if not model_id:
            return free
        there = [one for one in free if one.holds(model_id)] or [one for one in free if one.awaiting(model_id)]
        best = where_to_load(model_id, free)
        return there or ([] if best is None else [best])

    def _holders_of(self, model_id: str) -> list[ModelReplica]:
        # hot: kept until a replica tells of models, which is rare beside calls; not for ids that nobody has, which
        # callers could invent without end.
        holders = self._holders.get(model_id)
        if holders is None:
            holders = [one for one in self._models() if one.holds(model_id)]
            if holders:
                self._holders[model_id] = holders
        return holders

    def _models(self) -> list[ModelReplica]:
        return cast("list[ModelReplica]", self._candidates)

    def _models_changed(self) -> None:
        self._has_news = True
        self._holders.clear()
        self._fatal.forget(self._holders_of)

    def _replica_lost(self, awaited: set[str]) -> None:
        self._fatal.died(awaited, self._loop.time())

    def _enqueue(self, call: Call, *, again: bool = False) -> None:
        self._came.setdefault(call.arrival, self._loop.time())
        super()._enqueue(call, again=again)
        self._look_again_at(self._due(call))

    def _forget(self, call: Call) -> None:
        self._came.pop(call.arrival, None)
        super()._forget(call)

    def _empty_queues(self) -> list[Call]:
        self._came.clear()
        return super()._empty_queues()
