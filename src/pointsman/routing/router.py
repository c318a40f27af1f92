"""The router: routing table -> traffic policy -> pool. One per process that sends calls, on that process's loop.

submit -> chooser: which backend -> its pool -> a replica
      `-> shadows: a sampled share is mirrored -> their pools, behind users' calls
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from functools import partial

from pointsman.exceptions import DeadlineExceededError, ServeException
from pointsman.model import EMPTY_TABLE, BackendRoute, EndpointSpec, Pins, RoutingTable
from pointsman.routing.call import Call, ClientClosedError
from pointsman.routing.chooser import NO_PINS, Chooser
from pointsman.routing.metrics import PoolStatistics, RouterMetrics, ShadowStatistics
from pointsman.routing.multiplexing import ModelPool
from pointsman.routing.pairing import Compared, Heard, Pairing, PairSink, Subject
from pointsman.routing.pool import Pool
from pointsman.routing.reports import Reporter
from pointsman.routing.shadow import Shadow
from pointsman.telemetry.tallies import Tallies
from pointsman.wire.frames import Body
from pointsman.wire.messages import unpack
from pointsman.wire.pairs import DROPPED
from pointsman.wire.tables import TableChange, difference


class NoSuchEndpointError(ServeException):
    """The endpoint does not exist (any more)."""


class Router:
    """Sends calls according to the newest routing table.

    Args:
        instance: id of the instance, for the handshakes with replicas.
        draw: returns numbers uniform in [0, 1); None for a generator of its own.
        metrics: where calls are counted for metrics; None to count nothing.
        tallies: where what becomes of them is counted, by policy version and backend; None as before.
        reporter: tells the controller of the calls of backends whose number of replicas follows them; None as before.
        pairs: takes the answers of copied calls that are to be compared; None to compare nothing.

    Attributes:
        table: the table in use.
    """

    def __init__(
        self,
        *,
        instance: str,
        draw: Callable[[], float] | None = None,
        metrics: RouterMetrics | None = None,
        pairs: PairSink | None = None,
        tallies: Tallies | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self._instance = instance
        self._pairs = pairs
        self.metrics = metrics
        self.tallies = tallies
        self._reporter = reporter
        # Not the `random` module's shared generator, which user code may seed for each request.
        self._draw = draw or random.Random().random
        self._loop = asyncio.get_running_loop()
        self._choosers: dict[str, Chooser] = {}
        self._shadows: dict[tuple[str, str], Shadow] = {}
        self._noise: dict[tuple[str, str], Shadow] = {}
        """For second copies, which go to the backend that answers the user."""
        self._pools: dict[str, Pool] = {}
        self._retired: list[Pool] = []
        self._early: dict[str, list[Call]] = {}
        self._removed: set[tuple[str, str]] = set()
        """Shadows that are in no table any more."""
        self._users: Counter[str] = Counter()
        """Endpoints by the backend that their calls may go to."""
        self._trying: set[Pool] = set()
        """Pools with replicas that were not connected when last looked at."""
        self.table = EMPTY_TABLE

    def apply(self, table: RoutingTable, change: TableChange | None = None) -> TableChange | None:
        """Use ``table`` as a whole from the next call on.

        Args:
            change: how it differs from the table before, if that is known. It counts only if that is the one in use.

        Returns:
            How it differs from the table that was in use; None, and nothing is done, if it is not newer.
        """
        if table.version <= self.table.version:
            return None
        if change is None or change.base != self.table.version:
            change = difference(self.table, table)
        self.table = table
        old = [self._update_pool(tag, route) for tag, route in change.backends.items() if route is not None]
        gone = [self._pools.pop(tag) for tag, route in change.backends.items() if route is None]
        for name in dict.fromkeys((*change.endpoints, *change.pins)):
            self._update_chooser(name, change)
        names = {name for name, endpoint in change.endpoints.items() if endpoint is None}
        if self.tallies is not None and (gone or names):
            tags = {pool.tag for pool in gone}
            self.tallies.forget(lambda key: key.endpoint in names or key.backend in tags)
        # A shadow that is removed while its calls are in flight is kept: if it is added again, its limit counts them.
        for key in [key for key in self._removed if not self._shadows[key].inflight]:
            self._removed.discard(key)
            del self._shadows[key]
        gone += [pool for pool in old if pool is not None]
        for pool in gone:  # last, since their waiting calls are placed by the new policies
            pool.retire()
        self._retired = [pool for pool in (*self._retired, *gone) if pool.inflight]
        for name in [name for name in self._early if name in self._choosers]:
            for call in self._early.pop(name):
                self._place_again(call, self.submit)
        return change

    @property
    def is_connected(self) -> bool:
        """Whether all replicas of the table are connected, or were when they were new, or were tried for long enough
        then."""
        self._trying = {pool for pool in self._trying if pool.connecting()}
        return not self._trying

    async def connected(self) -> None:
        """Return when that is so."""
        if not self.is_connected:
            await asyncio.wait([future for pool in self._trying for future in pool.connecting()])

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
                self._mirror(call, self._shadows[call.request.endpoint, tag])

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
                call.fail(ClientClosedError("the client was shut down while the call waited"))
        self._early.clear()
        pools, self._pools = [*self._pools.values(), *self._retired], {}
        self.table = RoutingTable(self.table.version, {}, {})
        await asyncio.gather(*(shadow.aclose() for shadow in (*self._shadows.values(), *self._noise.values())))
        await asyncio.gather(*(pool.aclose("the client was shut down while the call waited") for pool in pools))
        if self._reporter is not None:
            self._reporter.close()
        if self._pairs is not None:
            await self._pairs.aclose()

    def statistics(self) -> list[PoolStatistics]:
        return [pool.statistics() for pool in self._pools.values()]

    def shadow_statistics(self) -> list[ShadowStatistics]:
        return [
            self._shadows[name, tag].statistics() for name, chooser in self._choosers.items() for tag in chooser.shadows
        ]

    def validate(self) -> None:
        """Raise AssertionError if the router's state is inconsistent. Called by tests at their end."""
        assert set(self._pools) == set(self.table.backends), "pools differ from the table's backends"
        assert self._choosers.keys() >= self.table.endpoints.keys(), "an endpoint of the table has no chooser"
        used = {tag for chooser in self._choosers.values() for tag in chooser.backends}
        assert +self._users == Counter(tag for one in self._choosers.values() for tag in one.backends), "users differ"
        assert all(pool.serves_users == (tag in used) for tag, pool in self._pools.items()), "a pool serves nobody"
        for pool in self._pools.values():
            pool.validate()

    def _update_pool(self, tag: str, route: BackendRoute) -> Pool | None:
        """Make or update a pool. Returns the one before, if another takes its place: its backend has begun to load
        models by id, or does so no more."""
        pool = before = self._pools.get(tag)
        if pool is None or isinstance(pool, ModelPool) != route.multiplexed:
            pool = self._pools[tag] = self._new_pool(route)
            pool.serves_users = self._users[tag] > 0
        else:
            pool.update(route)
        self._trying.add(pool)
        return before if before is not pool else None

    def _update_chooser(self, name: str, change: TableChange) -> None:
        """Make the chooser of an endpoint that is new, or whose specification or pins have changed."""
        old, endpoint = self._choosers.get(name), self.table.endpoints.get(name)
        new: Chooser | None = None
        if endpoint is None:
            self._choosers.pop(name, None)
        else:
            pins = old.pins if old is not None else NO_PINS
            if name in change.pins:
                packed = change.pins[name]
                pins = NO_PINS if packed is None else unpack(packed, Pins)
            if self.metrics is not None:
                self.metrics.policy(name, endpoint.policy.version)
            new = self._choosers[name] = Chooser(endpoint, pins, self.tallies)
        before, after = (one.backends if one is not None else set[str]() for one in (old, new))
        for tag, step in (*((tag, 1) for tag in after - before), *((tag, -1) for tag in before - after)):
            self._users[tag] += step
            if tag in self._pools:
                self._pools[tag].serves_users = self._users[tag] > 0
        self._noise = {key: shadow for key, shadow in self._noise.items() if key[0] != name or shadow.inflight}
        for tag in old.shadows if old is not None else ():
            self._removed.add((name, tag))
            if self._pairs is not None and (endpoint is None or tag not in endpoint.policy.compared):
                self._pairs.forget(name, tag)
        for tag in new.shadows if new is not None else ():
            self._removed.discard((name, tag))
            if (name, tag) not in self._shadows:
                self._shadows[name, tag] = self._new_shadow(name, tag)
            if endpoint is not None:
                self._shadows[name, tag].compared = self._compared(endpoint, tag)

    def _compared(self, endpoint: EndpointSpec, tag: str) -> Compared | None:
        comparison = endpoint.policy.compared.get(tag)
        if comparison is None or self._pairs is None:
            return None
        return Compared(self._pairs, Subject(endpoint.name, tag, comparison), endpoint.route, self._newest)

    def _new_pool(self, route: BackendRoute) -> Pool:
        kind = ModelPool if route.multiplexed else Pool
        return kind(
            route, instance=self._instance, reroute=self._reroute, metrics=self.metrics, reporter=self._reporter
        )

    def _new_shadow(self, endpoint: str, backend: str) -> Shadow:
        return Shadow(endpoint, backend, metrics=self.metrics)

    def _place(self, call: Call) -> Chooser:
        chooser = self._choosers.get(call.request.endpoint)
        if chooser is None:
            raise NoSuchEndpointError(f"there is no endpoint {call.request.endpoint!r}")
        call.policy_version = chooser.version
        tag = chooser.choose(call, self._draw())
        if chooser.tallies is not None:
            key = call.shard_key
            call.tally = chooser.tallies[tag] if key is None else chooser.tally_for(key, tag)
        pool = self._pools.get(tag)
        if pool is None:
            raise ClientClosedError("the client was shut down")
        pool.submit(call)
        return chooser

    def _mirror(self, call: Call, shadow: Shadow) -> None:
        if call.is_socket:
            shadow.drop()
        elif shadow.compared is None:
            self._copy(call, shadow)
        else:
            self._copy_to_compare(call, shadow, shadow.compared)

    def _copy_to_compare(self, call: Call, shadow: Shadow, compared: Compared) -> None:
        if why := compared.why_not(call):
            compared.missed(compared.sides(call.backend, 0, 0, noise=False), why)
            self._copy(call, shadow)
            return
        if self._draw() < compared.noise:
            key = call.request.endpoint, call.backend
            if key not in self._noise:
                self._noise[key] = Shadow(*key)
            pairing = Pairing(compared, call, noise=True)
            call.wrap(partial(Heard, call, pairing))
            self._copy(call, self._noise[key], pairing)
        pairing = Pairing(compared, call)
        call.wrap(partial(Heard, call, pairing))
        self._copy(call, shadow, pairing)

    def _newest(self, tag: str) -> int:
        """The newest version of a backend's code that a replica runs; 0 without replicas."""
        route = self.table.backends.get(tag)
        return max([ref.version for ref in route.replicas], default=0) if route is not None else 0

    def _copy(self, call: Call, shadow: Shadow, pairing: Pairing | None = None) -> None:
        if call.up is None:
            self._send_mirrored(call, shadow, call.body, pairing)
        else:
            call.up.when_whole(lambda body: self._send_mirrored(call, shadow, body, pairing))

    def _send_mirrored(self, call: Call, shadow: Shadow, body: Body | None, pairing: Pairing | None) -> None:
        """Send the mirrored call; count it as dropped where its body was too large, or never came."""
        chooser, mirrored = self._choosers.get(call.request.endpoint), None
        if body is not None and shadow.backend in self._pools:
            same = chooser is not None and chooser.version == call.policy_version
            tally = chooser.tally_of_shadow(shadow.backend) if chooser is not None and same else None
            mirrored = shadow.mirror(call, body, pairing, tally)
        if mirrored is not None:
            self._pools[shadow.backend].submit(mirrored)
        elif body is None:
            shadow.drop()
        if mirrored is None and pairing is not None:
            pairing.give_up(DROPPED)

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
