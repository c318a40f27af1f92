"""The router: routing table -> traffic policy -> pool. One per process that sends calls, on that process's loop.

submit -> chooser: which backend -> its pool -> a replica
      `-> shadows: a copy each, now and then -> their pools, behind everybody else
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from pointsman.exceptions import DeadlineExceededError, ServeException
from pointsman.model import EMPTY_TABLE, BackendRoute, Pins, RoutingTable
from pointsman.routing.call import Call
from pointsman.routing.chooser import NO_PINS, Chooser
from pointsman.routing.metrics import RouterMetrics
from pointsman.routing.pool import Pool, PoolStatistics
from pointsman.routing.shadow import Shadow, ShadowStatistics
from pointsman.wire.messages import unpack


class NoSuchEndpointError(ServeException):
    """The endpoint does not exist (any more)."""


class Router:
    """Sends calls where the newest routing table says.

    Args:
        instance: id of the instance, for the handshakes with replicas.
        draw: gives numbers uniform in [0, 1); None for a generator of its own.
        metrics: where calls are counted; None to count nothing.
    """

    def __init__(
        self, *, instance: str, draw: Callable[[], float] | None = None, metrics: RouterMetrics | None = None
    ) -> None:
        self._instance = instance
        self.metrics = metrics
        # Not the module's own generator, which belongs to user code: it may seed it for each request.
        self._draw = draw or random.Random().random
        self._loop = asyncio.get_running_loop()
        self._choosers: dict[str, Chooser] = {}
        self._shadows: dict[tuple[str, str], Shadow] = {}
        self._pools: dict[str, Pool] = {}
        self._retired: list[Pool] = []
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
                self._pools[tag] = self._new_pool(route)
            elif route != old.backends.get(tag):
                pool.update(route)
        gone = [self._pools.pop(tag) for tag in self._pools.keys() - table.backends.keys()]
        self._choosers = {name: self._chooser(name, old) for name in table.endpoints}
        in_use = {tag for chooser in self._choosers.values() for tag in chooser.backends}
        for tag, pool in self._pools.items():
            pool.serves_users = tag in in_use
        wanted = {(name, tag) for name, chooser in self._choosers.items() for tag in chooser.shadows}
        # One that ends while copies are under way is kept: begun again, it must not have twice as many.
        busy = {key for key, shadow in self._shadows.items() if shadow.inflight}
        self._shadows = {key: self._shadows.get(key) or self._new_shadow(*key) for key in wanted | busy}
        for pool in gone:  # only now, since their calls are placed by the new policies
            pool.retire()
        self._retired = [pool for pool in (*self._retired, *gone) if pool.inflight]
        for name in [name for name in self._early if name in self._choosers]:
            for call in self._early.pop(name):
                self._once_more(call, self.submit)
        return True

    def submit(self, call: Call) -> None:
        """Take a call; ``call.future`` will be resolved.

        Raises:
            NoSuchEndpointError: no endpoint of that name.
            BackpressureError: the queue is full and the call does not wait for room.
        """
        if self.metrics is not None and call.request.endpoint in self._choosers:
            self.metrics.request(call.request.endpoint)
        chooser = self._place(call)
        for tag, proportion in chooser.shadows.items():
            if self._draw() < proportion:
                self._send_copy(call, self._shadows[call.request.endpoint, tag])

    def submit_when_there(self, call: Call) -> None:
        """Like :meth:`submit`, but an endpoint that does not exist yet is waited for, within the deadline."""
        if call.request.endpoint in self._choosers:
            self.submit(call)
            return
        self._early.setdefault(call.request.endpoint, []).append(call)
        call.timer = self._loop.call_at(call.deadline, self._expire_early, call)

    def cancel(self, call: Call) -> None:
        """Nobody waits for this call any more."""
        pool = self._pools.get(call.backend)
        if pool is not None:
            pool.cancel(call)
            return
        call.give_up()
        if call.remote is not None:  # its backend is gone from the table, and the call still runs there
            call.remote.cancel(call)

    def would_wait(self, endpoint: str) -> bool:
        """Whether a call may have to wait for room in a queue: that of some backend of the endpoint is full. May be
        read from any thread."""
        chooser = self._choosers.get(endpoint)
        pools = [self._pools.get(tag) for tag in chooser.backends] if chooser is not None else []
        return any(pool is not None and pool.is_full(endpoint) for pool in pools)

    async def aclose(self) -> None:
        for calls in self._early.values():
            for call in calls:
                call.fail(ServeException("the client was shut down while the call waited"))
        self._early.clear()
        pools, self._pools = [*self._pools.values(), *self._retired], {}
        self.table = RoutingTable(self.table.version, {}, {})
        await asyncio.gather(*(shadow.aclose() for shadow in self._shadows.values()))
        await asyncio.gather(*(pool.aclose("the client was shut down while the call waited") for pool in pools))

    def statistics(self) -> list[PoolStatistics]:
        return [pool.statistics() for pool in self._pools.values()]

    def shadow_statistics(self) -> list[ShadowStatistics]:
        return [
            self._shadows[name, tag].statistics() for name, chooser in self._choosers.items() for tag in chooser.shadows
        ]

    def validate(self) -> None:
        """Raise AssertionError when the router contradicts itself."""
        assert set(self._pools) == set(self.table.backends), "pools differ from the table's backends"
        for pool in self._pools.values():
            pool.validate()

    def _chooser(self, name: str, old: RoutingTable) -> Chooser:
        """The endpoint's chooser: the one there is, unless its policy or pins have changed."""
        endpoint, packed = self.table.endpoints[name], self.table.pins.get(name)
        there = self._choosers.get(name)
        if there is None or packed != old.pins.get(name):
            pins = NO_PINS if packed is None else unpack(packed, Pins)
        elif there.endpoint == endpoint:
            return there
        else:
            pins = there.pins
        if self.metrics is not None:
            self.metrics.policy(name, endpoint.policy.version)
        return Chooser(endpoint, pins)

    def _new_pool(self, route: BackendRoute) -> Pool:
        return Pool(route, instance=self._instance, reroute=self._reroute, metrics=self.metrics)

    def _new_shadow(self, endpoint: str, backend: str) -> Shadow:
        return Shadow(endpoint, backend, metrics=self.metrics)

    def _place(self, call: Call) -> Chooser:
        chooser = self._choosers.get(call.request.endpoint)
        if chooser is None:
            raise NoSuchEndpointError(f"there is no endpoint {call.request.endpoint!r}")
        call.policy_version = chooser.version
        pool = self._pools.get(chooser.choose(call, self._draw()))
        if pool is None:
            raise ServeException("the client was shut down")
        pool.submit(call)
        return chooser

    def _send_copy(self, call: Call, shadow: Shadow) -> None:
        copy = shadow.copy_of(call)
        if copy is not None:
            self._pools[shadow.backend].submit(copy)

    def _reroute(self, call: Call) -> None:
        """Place a call again that waited for a backend which is gone."""
        if call.shadow:
            call.fail(ServeException(f"backend {call.backend!r} was deleted while the call waited"))
            return
        call.waits_for_room = True  # it had a place in a queue, and keeps one
        self._once_more(call, self._place)

    @staticmethod
    def _once_more(call: Call, place: Callable[[Call], object]) -> None:
        call.disarm()
        if call.is_over():
            return
        try:
            place(call)
        except ServeException as error:
            call.fail(error)

    def _expire_early(self, call: Call) -> None:
        waiting = self._early.get(call.request.endpoint, [])
        if call in waiting:
            waiting.remove(call)
        if not waiting:
            self._early.pop(call.request.endpoint, None)
        call.fail(
            DeadlineExceededError(
                f"no endpoint {call.request.endpoint!r} came up before the call's deadline", started=False
            )
        )
