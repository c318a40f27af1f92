"""Replicas by demand, on real processes: how soon a burst is seen, how soon a sleeping model answers, whether anything
is lost while numbers change, whether noise makes them change, and what a hundred such backends cost.

    python benchmarks/scaling.py [--only burst,wake,events,noise,cost] [--times 20] [--minutes 10]

Each part starts an instance of its own and prints a line per figure: the median and the range over its times. Nothing
else should run on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from peers import cpu_s

import pointsman as serve

CONSTRUCTOR_S = 1.0
PATH = "/model"


class Model:
    """A model that takes ``load_s`` seconds to load and ``run_s`` for a request."""

    def __init__(self, load_s: float, run_s: float) -> None:
        time.sleep(load_s)
        self._run_s = run_s

    def __call__(self, request: Any) -> str:
        time.sleep(self._run_s)
        return "ok"


@contextmanager
def instance(**options: Any) -> Iterator[Any]:
    """A client of an instance of its own, on any free port."""
    client = serve.start(http_options={"port": 0}, metrics_export_port=0, **options)
    try:
        yield client
    finally:
        client.shutdown()


def shown(what: str, values: list[float], unit: str, aim: str) -> None:
    """Print one figure: median, smallest and largest of its values."""
    low, high = min(values), max(values)
    print(f"{what}: {statistics.median(values):.3g} {unit} ({low:.3g}-{high:.3g}, n={len(values)}); {aim}", flush=True)


async def ask(port: int, count: Counter[str], *, path: str = PATH) -> float:
    """One request on a connection of its own; what became of it is counted. Returns the seconds that it took."""
    began = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET %b HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n" % path.encode())
        answer = await reader.read()
        writer.close()
    except OSError as error:
        count[repr(error)] += 1
    else:
        count[answer[9:12].decode() or "no answer"] += 1
    return time.perf_counter() - began


async def callers(port: int, number: int, until: asyncio.Event, count: Counter[str]) -> None:
    """So many callers, each of which asks again as soon as it has its answer."""

    async def one() -> None:
        while not until.is_set():
            await ask(port, count)

    await asyncio.gather(*(one() for _ in range(number)))


def scaling_of(client: Any, backend: str = "model") -> dict[str, Any]:
    """What the status says about the number of replicas."""
    found: dict[str, Any] = client.status()["backends"][backend]["autoscaling"]
    return found


def port_of(client: Any) -> int:
    """The HTTP port of an instance."""
    return int(client.status()["http"]["address"].rsplit(":", 1)[1])


def make(client: Any, load_s: float, run_s: float, **autoscaling: Any) -> None:
    """An autoscaled backend and its endpoint."""
    client.create_backend("model", Model, load_s, run_s, config={"autoscaling": autoscaling})
    client.create_endpoint("model", backend="model", route=PATH)


async def until(condition: Callable[[], bool], *, every_s: float = 0.01, limit_s: float = 120.0) -> float:
    """The seconds until a condition holds."""
    began = time.perf_counter()
    while not await asyncio.to_thread(condition):
        if time.perf_counter() - began > limit_s:
            raise TimeoutError("what was waited for did not come")
        await asyncio.sleep(every_s)
    return time.perf_counter() - began


async def burst(times: int) -> None:
    """From no caller to twenty: seconds until more replicas are wanted. The backend is a new one each time: one that
    needs again what it has just given away waits for longer and longer before it falls."""
    seen: list[float] = []
    with instance() as client:
        port, count = port_of(client), Counter[str]()
        for _ in range(times):
            make(client, 0.0, 0.05, max_replicas=4)
            await asyncio.sleep(3.0)
            over = asyncio.Event()
            load = asyncio.create_task(callers(port, 20, over, count))
            seen.append(await until(lambda: scaling_of(client)["wanted"] > 1))
            over.set()
            await load
            client.delete_endpoint("model")
            client.delete_backend("model")
    shown("burst until more is wanted", seen, "s", f"aim 1; answers {dict(count)}")


async def wake(times: int) -> None:
    """A call for a model that has no replica: seconds until its answer, beyond what the constructor takes."""
    for spares in (0, 1):
        beyond: list[float] = []
        with instance(spare_replicas=spares) as client:
            make(client, CONSTRUCTOR_S, 0.0, min_replicas=0, max_replicas=2)
            port, count = port_of(client), Counter[str]()
            for _ in range(times):
                client.unload("model")
                await until(lambda: not client.status()["backends"]["model"]["replicas"])
                await asyncio.sleep(1.0)  # a spare that was used has its successor
                beyond.append(await ask(port, count) - CONSTRUCTOR_S)
        aim = 0.25 if spares else 0.8
        shown(f"first answer, {spares} spare processes", beyond, "s", f"aim {aim}; answers {dict(count)}")


async def events(times: int) -> None:
    """Fifty changes of the number, and twenty wakes, under load: every request is answered."""
    count: Counter[str] = Counter()
    with instance() as client:
        make(client, 0.0, 0.02, min_replicas=0, max_replicas=4)
        port, over, drawn = port_of(client), asyncio.Event(), random.Random(1)
        load = asyncio.create_task(callers(port, 6, over, count))
        for _ in range(50):
            number = drawn.randint(1, 4)
            await asyncio.to_thread(client.scale, "model", number, hold_s=60.0)
            await until(lambda: _is_settled(client))
        for _ in range(20):
            await asyncio.to_thread(client.unload, "model")
            await until(lambda: client.status()["backends"]["model"]["replicas_running"] > 0)
            await asyncio.sleep(0.2)
        over.set()
        await load
    lost = sum(count.values()) - count["200"]
    print(f"50 changes of the number and 20 wakes under load: {lost} of {sum(count.values())} lost; {dict(count)}")


def _is_settled(client: Any) -> bool:
    backend = client.status()["backends"]["model"]
    return bool(backend["replicas_running"] == len(backend["replicas"]) == backend["replicas_wanted"])


async def noise(times: int, minutes: float) -> None:
    """Random arrivals of a constant rate: how often the number changes."""
    count: Counter[str] = Counter()
    drawn = random.Random(2)
    with instance() as client:
        make(client, 0.0, 0.05, max_replicas=4)
        port, ends = port_of(client), time.perf_counter() + 60 * minutes
        await _arrivals(port, 20.0, time.perf_counter() + 30.0, drawn, count)
        before = len(scaling_of(client)["decisions"])
        await _arrivals(port, 20.0, ends, drawn, count)
        made = scaling_of(client)["decisions"][before:]
    words = [f"{one['from']} -> {one['to']} for {one['reason']}" for one in made]
    print(f"{minutes:g} minutes of noise: {len(made)} changes {words}; answers {dict(count)}", flush=True)


async def _arrivals(port: int, rate: float, ends: float, drawn: random.Random, count: Counter[str]) -> None:
    due, asked = time.perf_counter(), set()
    while due < ends:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(ask(port, count))
        asked.add(task)
        task.add_done_callback(asked.discard)
        due += drawn.expovariate(rate)
    await asyncio.gather(*asked)


async def cost(times: int) -> None:
    """A hundred autoscaled backends with a call a second each: processor time of the controller."""
    shares: list[float] = []
    with instance() as client:
        for number in range(100):
            name = f"m{number}"
            client.create_backend(name, _noop, config={"autoscaling": {}})
            client.create_endpoint(name, backend=name, route=f"/{name}")
        port, pid, count = port_of(client), client.status()["controller_pid"], Counter[str]()
        for _ in range(3):
            before, began = cpu_s([pid]), time.perf_counter()
            while time.perf_counter() - began < 10.0:
                for number in range(100):
                    await ask(port, count, path=f"/m{number}")
                    await asyncio.sleep(0.005)
            shares.append(100 * (cpu_s([pid]) - before) / (time.perf_counter() - began))
    shown("the controller, with 100 autoscaled backends", shares, "% of a core", f"aim 2; answers {dict(count)}")


def _noop(request: Any) -> str:
    return "ok"


PARTS: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "burst": burst,
    "wake": wake,
    "events": events,
    "noise": noise,
    "cost": cost,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="What replicas by demand do on real processes.")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    for name in options.only.split(","):
        more = (options.minutes,) if name == "noise" else ()
        asyncio.run(PARTS[name](options.times, *more))
    return 0


if __name__ == "__main__":
    sys.exit(main())
