"""A whole instance made up: the real controller over a store in memory, replicas and routers that are played.

    seed -> steps (commands, crashes, delays) -> Simulation runs them in virtual time -> an invariant breaks, or none
    a seed that breaks one -> the fewest of its steps that still do -> told in words

After everything that happens this must hold (design, section "control"):

    - what was acknowledged is there, whatever crashed in between, and versions only grow
    - nothing is launched that is not stored
    - a replica is asked to drain when no router can choose it any more, or the routers have had their time
    - a replica that serves is not ended otherwise, unless it failed, is sick, or its drain limit has passed
    - a controller adopts what lives
    - without faults of processes, and with room for two versions, a backend never serves with fewer replicas than it
      should
    - when the faults are over, everything is as wanted, and nothing is left over
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from types import SimpleNamespace
from typing import Any

import msgspec

from pointsman.controller.controller import Controller
from pointsman.controller.observed import LaunchMetadata
from pointsman.controller.orders import Launcher
from pointsman.controller.publisher import Publisher
from pointsman.controller.reconcile import Action, Confirm, Revert, WakeAt, is_settled, plan
from pointsman.controller.replicas import Phase
from pointsman.controller.state import Desired
from pointsman.controller.store import Loaded, StoreError
from pointsman.engine.orders import LaunchOrder, ProcessEvent
from pointsman.exceptions import ServeException
from pointsman.model import Capacity
from pointsman.testing import FakeEngine, FakePeers, ReplicaPlan, run
from pointsman.wire.commands import Accepted, Apply, Change, DeleteBackend
from pointsman.wire.frames import Body, Kind
from pointsman.wire.messages import Assignment, unpack
from tests.loop.handovers import controller_handover
from tests.loop.lives import BAD, CONFIRM_S, GPUS, Step, is_scarce


class MemoryStore:
    """Implements :class:`pointsman.controller.store.base.DurableStore`; what is in ``desired`` outlives controllers."""

    def __init__(self) -> None:
        self.desired = Desired()
        self.replies: dict[str, bytes] = {}
        self.epoch = 0
        self.failing = 0

    def open(self) -> Loaded:
        self.epoch += 1
        return Loaded(self.desired, dict(self.replies), self.epoch)

    def commit(self, desired: Desired, *, reply_to: str = "", reply: bytes = b"", codes: Sequence[bytes] = ()) -> None:
        if self.failing:
            self.failing -= 1
            raise StoreError("the disk is full")
        assert desired.version >= self.desired.version, "an older state is stored over a newer one"
        self.desired = desired
        if reply_to:
            self.replies[reply_to] = reply

    def blob(self, digest: str) -> bytes:
        return digest.encode()

    def copy(self) -> None: ...

    def close(self) -> None: ...


class Fenced:
    """What a controller holds of the world: nothing of what it does after its death happens.

    Args:
        real: an engine, peers or a store.
    """

    def __init__(self, real: Any) -> None:
        self._real = real
        self.down = False

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        if not callable(value):
            return value

        def call(*arguments: Any, **keywords: Any) -> Any:
            if self.down:
                if name == "commit":
                    raise StoreError("this process has ended")
                return frozenset() if name == "ingress_routers" else b""
            return value(*arguments, **keywords)

        return call


def checked(check: Callable[..., None]) -> Callable[..., None]:
    """Keeps the words of the first check that fails: the controller that called it only says that it has failed."""

    @wraps(check)
    def checks(self: Simulation, *arguments: Any) -> None:
        try:
            check(self, *arguments)
        except AssertionError as error:
            self.broken = self.broken or str(error)
            raise

    return checks


@dataclass
class Going:
    """A replica that is not in the newest table any more."""

    since: float
    version: int


class Watched(FakePeers):
    """Routers whose tables are watched: who may still choose whom."""

    def __init__(self, engine: FakeEngine, simulation: Simulation) -> None:
        super().__init__(engine)
        self._simulation = simulation
        self.has: dict[int, int] = {}
        """Router -> version of the table that it has confirmed."""

    def publish(self, table: Any, change: Any) -> None:
        self._simulation.check_table(table)
        super().publish(table, change)

    def _confirm(self, controller: Any, number: int, version: int) -> None:
        self.has[number] = max(version, self.has.get(number, 0))
        super()._confirm(controller, number, version)

    def send_to_replica(self, number: int, kind: Kind, head: bytes, body: bytes = b"") -> None:
        if kind is Kind.DRAIN:
            self._simulation.check_drain(number)
        super().send_to_replica(number, kind, head, body)


class Engine(FakeEngine):
    """Checks what it is ordered."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__(simulation.plan_of)
        self._simulation = simulation

    def launch(self, order: LaunchOrder) -> None:
        self._simulation.check_launch(unpack(order.metadata, LaunchMetadata))
        super().launch(order)

    def kill(self, number: int) -> None:
        self._simulation.check_kill(number)
        super().kill(number)

    def tell(self, number: int, kind: Kind, head: bytes, body: Body = b"") -> None:
        replica = self.live.get(number)
        if replica is not None and kind in (Kind.ASSIGN, Kind.CONFIGURE):
            bad = body[unpack(head, Assignment).code_size if kind is Kind.ASSIGN else 0 :] == b"bad"
            replica.plan.reconfigure_error = "bad config" if bad else ""
            if not replica.assigned and bad:
                replica.plan.constructor_error = "bad config"
        super().tell(number, kind, head, body)


@dataclass
class Simulation:
    """One run.

    Args:
        seed: of the replicas' behaviour.
        steps: what is done to them.
    """

    seed: int
    steps: Sequence[Step]
    acknowledged: int = 0
    floors: dict[str, int] = field(default_factory=dict)
    going: dict[int, Going] = field(default_factory=dict)
    named: set[int] = field(default_factory=set)
    """Replicas that were in a table."""
    broken: str = ""
    """What was found while the controller did something."""

    async def run(self) -> None:
        """Take all steps, let everything come to rest, and look at it.

        Raises:
            AssertionError: an invariant does not hold.
        """
        await self.prepare()
        for step in self.steps:
            await asyncio.sleep(step.pause_s)
            await self.take(step)
            self.check()
        if is_scarce(self.seed):
            self.change_capacity(GPUS)
        await asyncio.sleep(150.0)
        if self.commands:
            await asyncio.wait(self.commands, timeout=10)
        self.check()
        self.check_rest()
        await self.stop()

    # The world

    async def prepare(self) -> None:
        """Make the world, with a controller that starts."""
        self.loop = asyncio.get_running_loop()
        self.store = MemoryStore()
        self.engine = Engine(self)
        self.peers = Watched(self.engine, self)
        self.peers.add_router(1, confirm_s=0.05)
        self.commands: set[asyncio.Task[None]] = set()
        self.fences: list[Fenced] = []
        self.faults = any(step.what.startswith(("replica", "router")) for step in self.steps)
        self.capacity = Capacity(num_gpus=GPUS) if is_scarce(self.seed) else Capacity()
        self.start()

    def start(self) -> None:
        loaded = self.store.open()
        assert loaded.desired.version >= self.acknowledged, "an acknowledged change is gone"
        handover = controller_handover(capacity=Capacity(num_gpus=GPUS))
        self.fences = [Fenced(real) for real in (self.engine, self.store, self.peers)]
        engine, store, peers = self.fences
        self.controller = Controller(
            engine=engine,
            store=store,
            launcher=Launcher(handover, epoch=loaded.epoch, environ={}),
            peers=peers,
            capacity=self.capacity,
            desired=loaded.desired,
            replies=loaded.replies,
            epoch=loaded.epoch,
        )
        self.engine.attach(self.controller)
        self.peers.attach(self.controller)

    async def stop(self) -> None:
        """As by a SIGKILL: nothing more of this controller happens."""
        self.engine.attach(None)
        for fence in self.fences:
            fence.down = True
        for command in list(self.commands):
            command.cancel()
        if self.commands:
            await asyncio.wait(self.commands)
        await self.controller.aclose()

    async def take(self, step: Step) -> None:
        live = sorted(self.engine.live)
        chosen = live[int(step.number * len(live))] if live else None
        if step.command is not None:
            command = asyncio.ensure_future(self.send(step.command))
            self.commands.add(command)
            command.add_done_callback(self.commands.discard)
        elif step.what == "controller dies":
            await self.stop()
            await asyncio.sleep(step.number)
            self.start()
        elif step.what == "store fails":
            self.store.failing = 1 + int(step.number * 2)
        elif step.what == "replica dies" and chosen is not None:
            self.engine.exit(chosen)
        elif step.what == "replica stops" and chosen is not None:
            self.engine.live[chosen].plan.health = None
            self.engine.live[chosen].plan.stopped = True
        elif step.what == "router is slow":
            self.peers.routers[1] = step.number * 4
        elif step.what == "router comes":
            self.peers.add_router(2, confirm_s=step.number)
        elif step.what == "capacity changes":
            self.change_capacity(int(step.number * (GPUS + 1)))

    def change_capacity(self, gpus: int) -> None:
        self.capacity = Capacity(num_gpus=gpus)
        self.controller.process_event(ProcessEvent("capacity", capacity=self.capacity))

    async def send(self, command: Change) -> None:
        """An operator's call; errors are for the operator."""
        if isinstance(command, Apply):
            command = msgspec.structs.replace(command, base=self.controller.desired.version)
        with contextlib.suppress(ValueError, ServeException):
            accepted = unpack(await self.controller.change(command, b""), Accepted)
            self.acknowledged = max(self.acknowledged, accepted.version)
            if isinstance(command, DeleteBackend):
                self.floors.pop(command.tag, None)  # one of that name may come before the next table
            self.check_acknowledged(accepted.version)

    def plan_of(self, note: LaunchMetadata) -> ReplicaPlan:
        chance = random.Random(f"{self.seed} {len(self.engine.launched)}")
        spec = self.store.desired.backends.get(note.backend)
        bad = spec is not None and spec.code == BAD
        return ReplicaPlan(
            start_s=chance.uniform(0.05, 0.3),
            ready_s=chance.uniform(0.0, 1.5),
            constructor_error="bad code" if bad else "",
            reconfigure_s=chance.uniform(0.0, 0.5),
            drain_s=None if chance.random() < 0.1 else chance.uniform(0.0, 1.0),
            stop_s=None if chance.random() < 0.1 else chance.uniform(0.0, 0.5),
        )

    # What must hold

    def check(self) -> None:
        self.controller.observed.validate()
        assert self.controller.desired.version <= self.store.desired.version, "what is in force is not stored"
        self.check_nothing_is_forgotten()

    def check_nothing_is_forgotten(self) -> None:
        """The controller plans only what an event concerns, and changes only that in the table. Whatever it does not
        look at would give nothing."""
        controller = self.controller
        agenda, publisher = controller._agenda, controller._publisher
        is_due = agenda.next_time is not None and agenda.next_time <= self.loop.time()
        if controller._kicked or controller._turn.locked() or is_due:
            return
        forgotten: list[Action] = []
        for action in plan(controller.desired, controller.observed, self.loop.time()):
            if isinstance(action, WakeAt):
                assert agenda.next_time is not None, f"nobody plans again at {action.time:g}"
                assert agenda.next_time <= action.time, f"due at {action.time:g}, and planned at {agenda.next_time:g}"
            elif not (isinstance(action, (Confirm, Revert)) and agenda.next_time):  # these may wait for the store
                forgotten.append(action)
        assert not forgotten, f"nobody has planned {forgotten}"
        if controller.published and not any(replica.adopted for replica in controller.observed.replicas.values()):
            nobody: Any = SimpleNamespace(publish=lambda table, change: None)
            whole = Publisher(nobody, publisher._keys, version=controller.table.version - 1, epoch=publisher.epoch)
            leaving = {n: r.left_at for n, r in controller.observed.replicas.items()}
            whole.publish(controller.desired, controller.observed, self.loop.time())
            assert whole.table == controller.table, "the table is not what it would be if it were made anew"
            assert leaving == {n: r.left_at for n, r in controller.observed.replicas.items()}, "a replica was forgotten"

    def check_acknowledged(self, version: int) -> None:
        assert self.store.desired.version >= version, "a change was acknowledged before it was stored"

    @checked
    def check_launch(self, note: LaunchMetadata) -> None:
        spec = self.store.desired.backends.get(note.backend)
        assert spec is not None, f"a replica of {note.backend!r} is launched, which is not stored"
        assert spec.version == note.version, f"version {note.version} is launched, and {spec.version} is stored"

    @checked
    def check_table(self, table: Any) -> None:
        named = {ref.number for route in table.backends.values() for ref in route.replicas}
        self.named |= named
        if self.peers.tables:
            before = self.peers.tables[-1]
            assert table.version > before.version, "the versions of tables do not grow"
            for route in before.backends.values():
                for ref in route.replicas:
                    if ref.number not in named:
                        self.going.setdefault(ref.number, Going(self.loop.time(), table.version))
            for number in named:
                self.going.pop(number, None)
        for tag in [tag for tag in self.floors if tag not in table.backends]:
            del self.floors[tag]
        for tag in self.controller.desired.backends:
            serving, wanted = len(table.backends[tag].replicas), self.controller.desired.wanted(tag)
            floor = min(self.floors.get(tag, 0), wanted)
            if not (self.faults or is_scarce(self.seed)):
                assert serving >= floor, f"{serving} of {floor} replicas of {tag!r} serve"
            self.floors[tag] = max(floor, min(serving, wanted))

    @checked
    def check_drain(self, number: int) -> None:
        going = self.going.get(number)
        if going is None:
            named = {ref.number for route in self.peers.tables[-1].backends.values() for ref in route.replicas}
            assert number not in named, f"replica {number} is to drain, and the newest table has it"
            return
        patience = self.loop.time() >= going.since + CONFIRM_S - 1e-3
        late = [router for router in self.peers.routers if self.peers.has.get(router, 0) < going.version]
        assert patience or not late, f"replica {number} is to drain, and router {late[0]} may still choose it"

    @checked
    def check_kill(self, number: int) -> None:
        known = self.controller.observed.replicas.get(number)
        replica = self.engine.live.get(number)
        if known is None or replica is None or replica.report.state != "ready" or known.unhealthy or known.adopted:
            return
        gone = known.backend not in self.controller.desired.backends  # by force, perhaps
        # One that got ready while there was no controller, and is not wanted any more, was never in a table.
        unused = known.phase is Phase.DRAINING and number not in self.named
        assert number in self.going or gone or unused, f"replica {number} is killed while it serves"

    def check_rest(self) -> None:
        desired, observed = self.controller.desired, self.controller.observed
        for tag in {*desired.backends, *(replica.backend for replica in observed.replicas.values())}:
            # Replicas of an unloaded backend stay until their calls end, which some of these never do (AS7).
            patient = all(replica.patient for replica in observed.of(tag))
            asleep = tag in desired.backends and not desired.wanted(tag) and tag not in desired.fallbacks and patient
            assert asleep or is_settled(desired, observed, tag), f"{tag!r} does not come to rest: {observed.of(tag)}"
        wanted = sum(map(desired.wanted, desired.backends))
        live = len([number for number in self.engine.live if not observed.replicas[number].patient])
        assert live == wanted, f"{live} processes live, and {wanted} are wanted"
        if self.peers.tables and desired.backends:
            named = sum(len(route.replicas) for route in self.peers.tables[-1].backends.values())
            assert named == wanted, f"the newest table names {named} replicas of {wanted}"
        assert self.store.desired == desired, "what is in force is not what is stored"
        assert desired.running is None, "an apply does not end"


def problem_of(seed: int, steps: Sequence[Step]) -> str:
    """Run; in words what went wrong, or nothing."""
    simulation = Simulation(seed, steps)
    try:
        run(simulation.run())
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever breaks is what is looked for
        return simulation.broken or f"{type(error).__name__}: {error}"
    return simulation.broken


def shortest(seed: int, steps: Sequence[Step]) -> list[Step]:
    """The fewest of the steps that still break something: each that can be left out is."""
    kept = list(steps)
    index = 0
    while index < len(kept):
        shorter = kept[:index] + kept[index + 1 :]
        if problem_of(seed, shorter):
            kept = shorter
        else:
            index += 1
    return kept


def explain(seed: int, steps: Sequence[Step]) -> str:
    """What a seed that fails does at the least, and what comes of it."""
    kept = shortest(seed, steps)
    simulation = Simulation(seed, kept)
    try:
        run(simulation.run())
    except (Exception, SystemExit) as error:  # noqa: BLE001 - told below
        problem = simulation.broken or f"{type(error).__name__}: {error}"
    else:
        problem = "(it did not happen again)"
    orders = "\n".join(f"  {order.time:8.2f}  {order.what} {order.number}" for order in simulation.engine.orders)
    lines = "\n".join(map(str, kept))
    return f"seed {seed}: {problem}\nsteps:\n{lines}\nwhat happened:\n{orders}"
