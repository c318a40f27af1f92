"""What a change costs where there is much already: a controller with made-up replicas, or a whole instance.

    growth.py made SIZE SECONDS    SIZE endpoints, SIZE backends of five replicas, 64 routers; a fake engine
    growth.py real SIZE SECONDS    SIZE endpoints of one backend, through the client

The fake engine's replicas are no processes. Controller, store, connections and routers are real. Routers live in two
other processes: one that keeps 63 links, and one with a whole HTTP server's app, whose router dials nobody.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import psutil  # type: ignore[import-untyped]

from pointsman.controller import controller as controlling
from pointsman.controller.commands import Commands
from pointsman.controller.connections import Connections
from pointsman.controller.controller import Controller
from pointsman.controller.orders import Launcher
from pointsman.controller.reconcile import plan
from pointsman.controller.state import Desired
from pointsman.controller.store import Store
from pointsman.engine.ray.folder import RAY_PREFIX
from pointsman.ingress.app import IngressApp
from pointsman.model import (
    BackendConfigSpec,
    BackendSpec,
    Capacity,
    EndpointSpec,
    Origin,
    Resources,
    TargetTraits,
    TrafficPolicy,
)  # fmt: skip
from pointsman.routing import remote
from pointsman.routing.router import Router
from pointsman.testing import FakeEngine, ReplicaPlan
from pointsman.usercode.packing import code_digest
from pointsman.wire.auth import ROLE_INGRESS, derive_key
from pointsman.wire.commands import Accepted, Await, Change, CreateEndpoint, DeleteEndpoint, SetTraffic
from pointsman.wire.control import ControlLink
from pointsman.wire.frames import Kind
from pointsman.wire.handover import ControllerHandover, HTTPSettings, InstanceSettings
from pointsman.wire.messages import pack, unpack
from pointsman.wire.stream import accept, listen_private

CODE = b"code"
MASTER, ROUTERS, REPLICAS, TIMES = b"m" * 32, 64, 5, 40
SETTINGS = HTTPSettings("127.0.0.1", 0, False, 60.0, 1 << 20, True, b"", Origin("/", ()))


class TimedStore(Store):
    """Counts the processor time of its copies, which are made once a second at most, whatever there is to change."""

    copies = 0
    copying_s = 0.0

    def copy(self) -> None:
        began = time.thread_time()
        super().copy()
        self.copies += 1
        self.copying_s += time.thread_time() - began


class FakeConnections(Connections):
    """Replicas are those of the fake engine. Counts what is sent to each router."""

    engine: FakeEngine
    sent = 0

    def send_to_replica(self, number: int, kind: Kind, head: bytes, body: bytes = b"") -> None:
        self.engine.tell(number, kind, head, body)

    def request_health(self, number: int) -> None:
        self.engine.ask(number)

    def publish(self, table: Any, change: Any) -> None:
        self.sent += len(pack(table if change is None else change))
        super().publish(table, change)


def wanted(size: int) -> Desired:
    """As many endpoints, and backends of five replicas."""
    resources, traits = Resources(num_cpus=0), TargetTraits(is_class=True)
    config, origin = BackendConfigSpec(num_replicas=REPLICAS, rollout_watch_s=0.0), Origin("/srv/app", ("/srv/app",))
    names = [f"model-{number:04d}" for number in range(size)]
    return Desired(
        1,
        {name: BackendSpec(name, 1, 1, code_digest(CODE), origin, traits, config, resources) for name in names},
        {name: EndpointSpec(name, f"/v1/{name}", ("GET", "POST"), TrafficPolicy(1, {name: 1.0})) for name in names},
    )


class Instance:
    """The controller, and processes with routers."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "ctl")
        self.store = TimedStore(folder / "state.db")
        handover = ControllerHandover(
            InstanceSettings(instance="i", name="n", master_key=MASTER, ingresses=1),
            str(folder),
            RAY_PREFIX,
            Capacity(),
        )
        self.connections = FakeConnections(handover)
        self.engine = self.connections.engine = FakeEngine(lambda note: ReplicaPlan(start_s=0.0, ready_s=0.0))
        self.store.open()
        self.handover = handover

    async def begin(self, size: int) -> None:
        desired = wanted(size)
        self.store.commit(desired, codes=[CODE])
        self.controller = Controller(
            engine=self.engine, store=self.store, launcher=Launcher(self.handover, epoch=1, environ={}),
            peers=self.connections, capacity=Capacity(), desired=desired, replies={}, epoch=1,
        )  # fmt: skip
        commands = Commands(self.handover.settings, self.controller, self.engine, ingresses=self.connections.ingresses)
        self.connections.serve(self.controller, commands, disconnected=lambda number: None)
        self.engine.attach(self.controller)
        listener = listen_private(self.path)
        self.server = await accept(listener, self.connections, instance="i", key_for=self.connections.key_for)
        self.controller.kick()
        await until(
            lambda: sum(len(route.replicas) for route in self.controller.table.backends.values()) == REPLICAS * size
        )

    async def carry_out(self, command: Change) -> float:
        """Milliseconds until all routers have a change."""
        began = time.perf_counter()
        accepted = unpack(await self.controller.change(command, b""), Accepted)
        await self.controller.wait(Await(command.id, accepted.version, None, False, 60.0), frozenset(), lambda _: None)
        return 1e3 * (time.perf_counter() - began)


async def until(reached: Callable[[], bool]) -> None:
    while not reached():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.001)


class Child:
    """A process with routers, which says what it has used when it is asked."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def used(self) -> dict[str, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        found: dict[str, float] = json.loads(await self._process.stdout.readline())
        return found

    async def end(self) -> None:
        self._process.kill()
        await self._process.wait()


async def child(what: str, path: str) -> Child:
    pipe = asyncio.subprocess.PIPE
    return Child(await asyncio.create_subprocess_exec(sys.executable, __file__, what, path, stdin=pipe, stdout=pipe))


async def made(size: int) -> dict[str, float]:
    """All figures of one size."""
    with tempfile.TemporaryDirectory(prefix="pm") as folder:
        instance = Instance(Path(folder))
        await instance.begin(size)
        controller, figures = instance.controller, dict[str, float]()
        links, app = await child("links", instance.path), await child("app", instance.path)
        await until(lambda: list(controller.observed.confirmed.values()).count(controller.table.version) == ROUTERS)
        figures["table_kb"] = len(pack(controller.table)) / 1e3
        began = time.process_time()
        plan(controller.desired, controller.observed, asyncio.get_running_loop().time())
        figures["whole_plan_ms"] = 1e3 * (time.process_time() - began)
        figures["controller_mb"] = psutil.Process().memory_full_info().uss / 1e6
        began = time.process_time()
        await asyncio.sleep(3.0)
        figures["idle_ms"] = 1e3 * (time.process_time() - began) / 3
        figures |= await changes(instance, size, figures["idle_ms"] / 1e3, app, links)
        figures["app_mb"] = (await app.used())["mb"]
        await asyncio.gather(app.end(), links.end())
        await instance.controller.aclose()
        await instance.server.aclose()
    return figures


async def changes(instance: Instance, size: int, idle: float, app: Child, links: Child) -> dict[str, float]:
    """Milliseconds of each kind of change: until all have it, and of processor time, less what an idle controller and
    the store's copies take."""
    figures, plans = dict[str, float](), list[float]()
    plan_for = vars(controlling)["plan_for"]

    def timed(*arguments: Any) -> Any:
        began = time.thread_time()
        try:
            return plan_for(*arguments)
        finally:
            plans.append(1e3 * (time.thread_time() - began))

    vars(controlling)["plan_for"] = timed
    await instance.carry_out(CreateEndpoint("first", "first", "model-0000", "/first", ("GET",), False))
    before = await app.used(), await links.used()
    instance.connections.sent = 0
    kinds: dict[str, Callable[[int], Awaitable[float]]] = {
        "create": lambda n: instance.carry_out(
            CreateEndpoint(f"a{n}", f"x{n}", f"model-{n % size:04d}", f"/x/{n}", ("GET",), False)
        ),
        "traffic": lambda n: instance.carry_out(
            SetTraffic(f"b{n}", f"x{n}", {f"model-{n % size:04d}": 0.5, f"model-{(n + 1) % size:04d}": 0.5}
                       if size > 1 else {"model-0000": 1.0}, None, True)
        ),
        "delete": lambda n: instance.carry_out(DeleteEndpoint(f"c{n}", f"x{n}")),
        "death": lambda n: death(instance),
    }  # fmt: skip
    for kind, change in kinds.items():
        cpu, wall, taken = time.process_time() - instance.store.copying_s, time.perf_counter(), []
        for number in range(TIMES):
            taken.append(await change(number))
        cpu, wall = time.process_time() - instance.store.copying_s - cpu, time.perf_counter() - wall
        figures |= {f"{kind}_ms": median(taken), f"{kind}_cpu_ms": 1e3 * (cpu - idle * wall) / TIMES}
    after = await app.used(), await links.used()
    number = TIMES * len(kinds)
    figures["sent_bytes"] = instance.connections.sent / number
    figures["app_cpu_ms"] = (after[0]["cpu_ms"] - before[0]["cpu_ms"]) / number
    figures["link_cpu_ms"] = (after[1]["cpu_ms"] - before[1]["cpu_ms"]) / number / (ROUTERS - 1)
    figures["plan_ms"] = sum(plans) / number
    figures["copy_ms"] = 1e3 * instance.store.copying_s / max(1, instance.store.copies)
    vars(controlling)["plan_for"] = plan_for
    return figures


async def death(instance: Instance) -> float:
    """Milliseconds from the end of a replica until all routers have its successor."""
    controller, began = instance.controller, time.perf_counter()
    number = next(iter(instance.engine.live))
    backend = instance.engine.live[number].note.backend
    failures = controller.observed.failures
    instance.engine.exit(number)
    failures.clear()  # or the next death waits for longer and longer

    def replaced() -> bool:
        confirmed = controller.observed.confirmed.values()
        refs = controller.table.backends[backend].replicas
        there = len(refs) == REPLICAS and all(ref.number != number for ref in refs)
        return there and all(version == controller.table.version for version in confirmed)

    await until(replaced)
    return 1e3 * (time.perf_counter() - began)


async def routers(what: str, path: str) -> None:
    """Routers of a child process."""

    async def never(*_: Any, **__: Any) -> None:
        await asyncio.get_running_loop().create_future()

    vars(remote)["wire_stream"] = SimpleNamespace(dial=never)
    links = []
    for number in range(ROUTERS - 1 if what == "links" else 1):
        on_table: Callable[[Any, Any], None] | None = None
        if what == "app":
            on_table = IngressApp(Router(instance="i"), SETTINGS).apply
        link = ControlLink(
            path=path, instance="i", role=ROLE_INGRESS, identity=str(number),
            key=derive_key(MASTER, ROLE_INGRESS, str(number)), on_table=on_table,
        )  # fmt: skip
        link.subscribe(ingress=True, pid=1)
        await link.start()
        links.append(link)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        used = {"cpu_ms": 1e3 * time.process_time(), "mb": psutil.Process().memory_full_info().uss / 1e6}
        print(json.dumps(used), flush=True)


def noop(request: Any) -> str:
    return "ok"


def real(size: int) -> dict[str, float]:
    """Milliseconds of the client's calls on an instance with as many endpoints, and of processor time of all its
    processes for one call."""
    import pointsman as serve

    def timed(call: Callable[..., object], *arguments: Any, **options: Any) -> float:
        began = time.perf_counter()
        call(*arguments, **options)
        return 1e3 * (time.perf_counter() - began)

    with serve.start(http_options={"port": 0}) as client, ThreadPoolExecutor(8) as pool:
        for tag in ("one", "two"):
            client.create_backend(tag, noop)
        names = [f"model-{number}" for number in range(size)]
        list(pool.map(lambda name: client.create_endpoint(name, backend="one", route=f"/v1/{name}"), names))
        time.sleep(2.0)  # the store's copy is made
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        created, moved, before = [], [], [process.cpu_times() for process in processes]
        for number in range(TIMES):
            name = f"x{number}"
            created.append(timed(client.create_endpoint, name, backend="one", route=f"/{name}"))
            moved.append(timed(client.set_traffic, name, {"one": 0.5, "two": 0.5}))
            client.delete_endpoint(name)
        after = [process.cpu_times() for process in processes]
        used_s = sum(b.user + b.system - a.user - a.system for a, b in zip(before, after, strict=True))
    return {
        "create_ms": median(created),
        "traffic_ms": median(moved),
        "all_cpu_ms": 1e3 * used_s / TIMES / 3,
    }


def main() -> None:
    what, argument = sys.argv[1:3]
    if what == "made":
        print(json.dumps(asyncio.run(made(int(argument)))))
    elif what == "real":
        print(json.dumps(real(int(argument))))
    else:
        asyncio.run(routers(what, argument))


if __name__ == "__main__":
    main()
