"""The router: routing table -> traffic policy -> pool. One per process that sends calls, on that process's loop.

submit -> chooser: which backend -> its pool -> a replica
      `-> shadows: a sampled share is mirrored -> their pools, behind users' calls
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from pointsman.exceptions import DeadlineExceededError, ServeException
from pointsman.model import EMPTY_TABLE, BackendRoute, Pins, RoutingTable
from pointsman.routing.call import Call
from pointsman.routing.chooser import NO_PINS, Chooser
from pointsman.routing.metrics import PoolStatistics, RouterMetrics, ShadowStatistics
from pointsman.routing.pool import Pool
from pointsman.routing.shadow import Shadow
from pointsman.wire.messages import unpack


class NoSuchEndpointError(ServeException):
    """The endpoint does not exist (any more)."""


class Router:
    """Sends calls according to the newest routing table.

    Args:
        instance: id of the instance, for the handshakes with replicas.
        draw: returns numbers uniform in [0, 1); None for a generator of its own.
        metrics: where calls are counted; None to count nothing.

    Attributes:
        table: the table in use.
    """

    def __init__(
        self, *, instance: str, draw: Callable[[], float] | None = None, metrics: RouterMetrics | None = None
    ) -> None:
        self._instance = instance
        self.metrics = metrics
        # Not the `random` module's shared generator, which user code may seed for each request.
        self._draw = draw or random.Random().random
        self._loop = asyncio.get_running_loop()
        self._choosers: dict[str, Chooser] = {}
        self._shadows: dict[tuple[str, str], Shadow] = {}
        self._pools: dict[str, Pool] = {}
        self._retired: list[Pool] = []
        self._early: dict[str, list[Call]] = {}
        self.table = EMPTY_TABLE

    def apply(self, table: RoutingTable) -> bool:
        """Use ``table`` as a whole from the next call on. Returns False, and does nothing, if it is not newer."""
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
        # A shadow that is removed while its calls are in flight is kept: if it is added again, its limit counts them.
        busy = {key for key, shadow in self._shadows.items() if shadow.inflight}
        self._shadows = {key: self._shadows.get(key) or self._new_shadow(*key) for key in wanted | busy}
        for pool in gone:  # last, since their waiting calls are placed by the new policies
            pool.retire()
        self._retired = [pool for pool in (*self._retired, *gone) if pool.inflight]
        for name in [name for name in self._early if name in self._choosers]:
            for call in self._early.pop(name):
                self._place_again(call, self.submit)
        return True

    @property
    def is_connected(self) -> bool:
        """Whether all replicas of the table are connected, or were when they were new, or were tried for long enough
        then."""
        return not any(pool.connecting() for pool in self._pools.values())

    async def connected(self) -> None:
        """Return when that is so."""
        trying = [future for pool in self._pools.values() for future in pool.connecting()]
        if trying:
            await asyncio.wait(trying)

    def submit(self, call: Call) -> None:
        """Send a call; ``call.future`` will be resolved.

        Raises:
            NoSuchEndpointError: there is no endpoint of that name.
            BackpressureError: the queue is full, and the call does not wait.
        """
        if self.metrics is not None and call.request.endpoint in self._choosers:
            self.metrics.request(call.request.endpoint)
        chooser = self._place(call)
        for tag, proportion in chooser.shadows.items():
            if self._draw() < proportion:
                self._send_mirrored(call, self._shadows[call.request.endpoint, tag])

    def submit_when_there(self, call: Call) -> None:
        """Like :meth:`submit`, but waits until the deadline for an endpoint that does not exist yet."""
        if call.request.endpoint in self._choosers:
            self.submit(call)
            return
        self._early.setdefault(call.request.endpoint, []).append(call)
        call.timer = self._loop.call_at(call.deadline, self._expire_early, call)

    def cancel(self, call: Call) -> None:
        """Give a call up: its caller does not wait for it any more."""
        pool = self._pools.get(call.backend)
        if pool is not None:
            pool.cancel(call)
            return
        call.give_up()
        if call.remote is not None:  # the backend was removed from the table, and the call still runs on its replica
            call.remote.cancel(call)

    def would_wait(self, endpoint: str) -> bool:
        """True if the queue of some backend of the endpoint is full, so that a call may have to wait. Thread-safe."""
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
        """Raise AssertionError if the router's state is inconsistent. Called by tests at their end."""
        assert set(self._pools) == set(self.table.backends), "pools differ from the table's backends"
        for pool in self._pools.values():
            pool.validate()

    def _chooser(self, name: str, old: RoutingTable) -> Chooser:
        """The endpoint's chooser: the existing one unless the endpoint or its pins have changed."""
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

    def _send_mirrored(self, call: Call, shadow: Shadow) -> None:
        mirrored = shadow.mirror(call)
        if mirrored is not None:
            self._pools[shadow.backend].submit(mirrored)

    def _reroute(self, call: Call) -> None:
        """Place a call again whose backend was removed while it waited."""
        if call.shadow:
            call.fail(ServeException(f"backend {call.backend!r} was deleted while the call waited"))
            return
        call.waits_if_full = True  # it was admitted to a queue before, so it must not be refused now
        self._place_again(call, self._place)

    @staticmethod
    def _place_again(call: Call, place: Callable[[Call], object]) -> None:
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
