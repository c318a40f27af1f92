"""A controller that looks at calls, and routers that count them: for stories of numbers of replicas that follow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pointsman.controller.observed import Observed
from pointsman.controller.scaling.demand import Collector
from pointsman.controller.scaling.watch import ScalingWatch
from pointsman.controller.scaling.words import view_of
from pointsman.controller.state import Desired
from pointsman.model import Autoscaling, Resources
from pointsman.model.scaling import Decision, Demand, ScalingPolicy, ScalingView
from pointsman.policy.scaling.context import PolicyContext, Said
from pointsman.testing import run
from pointsman.wire.commands import SetTraffic
from pointsman.wire.scaling import DemandHead, ScaleBackend
from tests.loop.world import World

REPORT_S = 0.5
NOTHING = Resources()


class Flow(NamedTuple):
    """Calls for a backend: so many come each second, each runs so long, and so many wait."""

    rate: float = 0.0
    service_s: float = 0.1
    waiting: int = 0

    @property
    def running(self) -> int:
        return round(self.rate * self.service_s)


class CountingRouter:
    """A router whose calls are set by the test: it counts them as they are, and reports as routers do."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.collector: Collector | None = None
        self._counts: dict[str, Demand] = {}
        self._flows: dict[str, Flow] = {}
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def have(self, tag: str, rate: float = 0.0, service_s: float = 0.1, waiting: int = 0) -> None:
        """From now on it has these calls for a backend."""
        self._count()
        self._flows[tag] = Flow(rate, service_s, waiting)
        self._counts.setdefault(tag, Demand())
        if waiting:
            self.report()

    def report(self) -> None:
        """Send a frame."""
        self._count()
        if self.collector is not None:
            whole = {tag: _whole(counts, self._flows[tag]) for tag, counts in self._counts.items()}
            self.collector.reported(self.number, DemandHead(whole))

    def tick(self) -> None:
        """Report each half second from now on."""
        self.report()
        self._timer = asyncio.get_running_loop().call_later(REPORT_S, self.tick)

    def hang(self) -> None:
        """Say nothing any more."""
        assert self._timer is not None
        self._timer.cancel()

    def _count(self) -> None:
        now = asyncio.get_running_loop().time()
        passed, self._since = now - self._since, now
        for tag, flow in self._flows.items():
            came = flow.rate * passed
            step = Demand(
                call_s=passed * (flow.running + flow.waiting),
                waiting_s=passed * flow.waiting,
                arrivals=came,  # type: ignore[arg-type]  # made whole in a frame
                ended=came,  # type: ignore[arg-type]
                ran_s=came * flow.service_s,
                ran_s2=came * 2 * flow.service_s**2,
            )
            self._counts[tag] = self._counts[tag].plus(step)


def _whole(counts: Demand, flow: Flow) -> Demand:
    arrivals, ended = int(counts.arrivals), int(counts.ended)
    return msgspec.structs.replace(counts, arrivals=arrivals, ended=ended, waiting=flow.waiting, running=flow.running)


class SaidPolicies:
    """Stands for users' own rules: it says what the test says, and keeps what it is asked."""

    def __init__(self) -> None:
        self.wants: float | None = None
        self.remark = ""
        self.asked: list[tuple[str, PolicyContext]] = []
        self.kept: Collection[str] = ()

    def said(self, tag: str) -> Said:
        return Said(self.wants, self.remark)

    def ask(self, tag: str, policy: ScalingPolicy, version: int, context: PolicyContext) -> None:
        self.asked.append((tag, context))

    def keep(self, tags: Collection[str]) -> None:
        self.kept = tags

    def close(self) -> None:
        """There is no process."""


class ScaledWorld(World):
    """A world with calls: ``router`` has them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._began = datetime.now(timezone.utc)
        self.router = CountingRouter(7)
        self.router.tick()
        self.policies: SaidPolicies | None = None
        self.decisions: list[tuple[str, Decision]] = []
        self.starts: list[tuple[str, float]] = []
        self.needs: list[tuple[Resources, int]] = []

    def ask_for_nodes(self, needs: list[tuple[Resources, int]]) -> None:
        self.needs = needs

    def clock(self) -> str:
        """The time of day, which goes on as the loop's."""
        now = self._began + timedelta(seconds=asyncio.get_running_loop().time())
        return now.isoformat(timespec="milliseconds")

    async def start(self) -> None:
        await super().start()
        self.collector = Collector(asyncio.get_running_loop().time)
        self.watch = ScalingWatch(
            desired=lambda: self.controller.desired,
            observed=self.controller.observed,
            counts=self.collector,
            update=self.controller.update,
            metrics=self,
            policies=self.policies,
            request=self.ask_for_nodes,
            clock=self.clock,
        )
        self.watch.start()
        self.router.collector = self.collector

    def show(self, desired: Desired, observed: Observed) -> None:
        """The world gets what metrics get."""

    def decided(self, backend: str, decision: Decision) -> None:
        self.decisions.append((backend, decision))

    def started(self, backend: str, seconds: float) -> None:
        self.starts.append((backend, seconds))

    async def stop(self) -> None:
        self.router.collector = None
        await self.watch.aclose()
        await super().stop()

    async def restart(self, after_s: float = 0.2) -> None:
        """The controller dies, and the next one comes."""
        await self.stop()
        await asyncio.sleep(after_s)
        await self.start()

    async def create_auto(self, tag: str = "b", resources: Resources = NOTHING, **autoscaling: Any) -> None:
        """Create a backend that is autoscaled, with a target of two calls at a time."""
        order = self.create_order(tag, autoscaling=Autoscaling(**{"target_ongoing_requests": 2.0, **autoscaling}))
        accepted = await self.change(msgspec.structs.replace(order, resources=resources), b"code 1")
        await self.wait(accepted.version, tag)

    def wanted(self, tag: str = "b") -> int:
        return self.controller.desired.wanted(tag)

    def serving(self, tag: str = "b") -> int:
        """Replicas in the routing table."""
        return len(list(self.peers.replicas_in_table(tag)))

    async def rises_to(self, number: int, tag: str = "b", within_s: float = 60.0) -> None:
        """Wait until so many replicas are wanted; it takes some looks, how many is the rule's own affair."""

        async def rise() -> None:
            while self.wanted(tag) < number:
                await asyncio.sleep(0.01)

        await asyncio.wait_for(rise(), within_s)

    def view(self, tag: str = "b") -> ScalingView:
        now = asyncio.get_running_loop().time()
        view = view_of(tag, self.controller.desired, self.controller.observed, now, self.clock())
        assert view is not None
        return view

    async def scale(self, replicas: int, hold_s: float, tag: str = "b") -> None:
        """What ``client.scale`` does, at the time of day of this world."""
        command = ScaleBackend(id=self.new_id(), tag=tag, replicas=replicas, hold_s=hold_s)
        await self.change(command)

    async def split(self, **weights: float) -> None:
        await self.change(SetTraffic(self.new_id(), "e", weights))


def in_scaled_world(folder: Path, test: Callable[[ScaledWorld], Coroutine[Any, Any, None]]) -> None:
    """Run a test with a controller that looks at calls."""

    async def main() -> None:
        world = ScaledWorld(folder)
        await world.start()
        await test(world)
        await world.stop()
        world.router.hang()

    run(main())
