"""The router: routing table -> traffic policy -> pool. One per process that sends calls, on that process's loop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from pointsman.exceptions import DeadlineExceededError, ServeException
from pointsman.model import EMPTY_TABLE, RoutingTable
from pointsman.policy.traffic import TrafficSplit
from pointsman.routing.call import Call
from pointsman.routing.pool import Pool, PoolStatistics


class NoSuchEndpointError(ServeException):
    """The endpoint does not exist (any more)."""


class Router:
    """Sends calls where the newest routing table says.

    Args:
        instance: id of the instance, for the handshakes with replicas.
        draw: gives numbers uniform in [0, 1); passed in by tests.
    """

    def __init__(self, *, instance: str, draw: Callable[[], float] = random.random) -> None:
        self._instance = instance
        self._draw = draw
        self._loop = asyncio.get_running_loop()
        self._splits: dict[str, TrafficSplit] = {}
        self._pools: dict[str, Pool] = {}
        self._early: dict[str, list[Call]] = {}
        self.table = EMPTY_TABLE

    def apply(self, table: RoutingTable) -> bool:
        """Switch to ``table``, whole, for the next call on. Returns False for a table that is not newer."""
        if table.version <= self.table.version:
            return False
        old, self.table = self.table, table
        for tag, route in table.backends.items():
            pool = self._pools.get(tag)
            if pool is None:
                self._pools[tag] = Pool(route, instance=self._instance)
            elif route != old.backends.get(tag):
                pool.update(route)
        for tag in [tag for tag in self._pools if tag not in table.backends]:
            self._pools.pop(tag).retire(f"backend {tag!r} was deleted while the call waited")
        self._splits = {name: TrafficSplit(endpoint.policy) for name, endpoint in table.endpoints.items()}
        for name in [name for name in self._early if name in self._splits]:
            for call in self._early.pop(name):
                self._submit_early(call)
        return True

    def submit(self, call: Call) -> None:
        """Take a call; ``call.future`` will be resolved.

        Raises:
            NoSuchEndpointError: no endpoint of that name.
            BackpressureError: the queue is full and the call does not wait for room.
        """
        split = self._splits.get(call.endpoint)
        if split is None:
            raise NoSuchEndpointError(f"there is no endpoint {call.endpoint!r}")
        self._pools[split.choose(self._draw())].submit(call)

    def submit_when_there(self, call: Call) -> None:
        """Like :meth:`submit`, but an endpoint that does not exist yet is waited for, within the deadline."""
        if call.endpoint in self._splits:
            self.submit(call)
            return
        self._early.setdefault(call.endpoint, []).append(call)
        call.timer = self._loop.call_at(call.deadline, self._expire_early, call)

    def cancel(self, call: Call) -> None:
        """Nobody waits for this call any more."""
        pool = self._pools.get(call.backend)
        if pool is not None:
            pool.cancel(call)
            return
        if not call.future.done():
            call.future.cancel()
        if call.remote is not None:  # its backend is gone from the table, and the call still runs there
            call.remote.cancel(call)

    def would_wait(self, endpoint: str) -> bool:
        """Whether the queue of every backend of the endpoint is full. May be read from any thread."""
        spec = self.table.endpoints.get(endpoint)
        pools = [self._pools.get(tag) for tag, weight in spec.policy.weights.items() if weight] if spec else []
        return bool(pools) and all(pool is not None and pool.is_full(endpoint) for pool in pools)

    async def aclose(self) -> None:
        for calls in self._early.values():
            for call in calls:
                call.fail(ServeException("the client was shut down while the call waited"))
        self._early.clear()
        pools, self._pools = list(self._pools.values()), {}
        await asyncio.gather(*(pool.aclose("the client was shut down while the call waited") for pool in pools))

    def statistics(self) -> list[PoolStatistics]:
        return [pool.statistics() for pool in self._pools.values()]

    def validate(self) -> None:
        """Raise AssertionError when the router contradicts itself."""
        assert set(self._pools) == set(self.table.backends), "pools differ from the table's backends"
        for pool in self._pools.values():
            pool.validate()

    def _submit_early(self, call: Call) -> None:
        if call.timer is not None:
            call.timer.cancel()
        if call.future.done():
            return
        try:
            self.submit(call)
        except ServeException as error:
            call.fail(error)

    def _expire_early(self, call: Call) -> None:
        waiting = self._early.get(call.endpoint, [])
        if call in waiting:
            waiting.remove(call)
        if not waiting:
            self._early.pop(call.endpoint, None)
        call.fail(
            DeadlineExceededError(f"no endpoint {call.endpoint!r} came up before the call's deadline", started=False)
        )
