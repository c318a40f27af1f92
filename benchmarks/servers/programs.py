"""Sides that measure by themselves, and print their figures as JSON. Usage: programs.py NAME SECONDS"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "semver==3.0.2"
NEEDED = ("cloudpickle", "msgspec", "starlette", "uvloop")
"""What an environment without Pointsman must have, as docs/environments.md says."""
CROSSINGS, BLOCKS = 5000, 10
TRIES, IN_TIME_MS, TRIAL_S = 50, 50, 1.0
MORE = 8
FIRST_ANSWER = Path(__file__).with_name("first_answer.py")
IMPORT = "import time; t = time.perf_counter(); from pointsman import start; print(time.perf_counter() - t)"


def noop(request: Any) -> str:
    return "ok"


async def async_noop(request: Any) -> str:
    return "ok"


def start(seconds: float) -> dict[str, float]:
    """Seconds from a new process to its first 200, by their parts; and those of an import in another process."""
    before = spawned = time.monotonic()
    done = subprocess.run([sys.executable, FIRST_ANSWER], stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = {}
    for name, at in json.loads(done.stdout).items():
        figures[name], before = at - before, at
    done = subprocess.run([sys.executable, "-c", IMPORT], stdout=subprocess.PIPE, check=True)
    return figures | {"total": before - spawned, "import": float(done.stdout)}


def choosing(seconds: float) -> dict[str, float]:
    """µs of ``Chooser.choose`` alone: the best of five runs of 20,000 choices, by processor time."""
    from pointsman.model import EndpointSpec, TrafficPolicy
    from pointsman.routing.chooser import Chooser

    def choose_all(choose: Callable[[Any, float], str], calls: list[tuple[Any, float]]) -> None:
        for call, draw in calls:
            choose(call, draw)

    figures, chance = {}, random.Random(1)
    draws = [(f"user-{chance.randrange(1_000_000):06d}", chance.random()) for _ in range(1000)]
    for backends in (2, 4, 8, 16):
        policy = TrafficPolicy(1, {f"backend-{number}": 1 / backends for number in range(backends)})
        choose: Any = Chooser(EndpointSpec("endpoint", "/endpoint", ("GET",), policy)).choose
        for kind in ("plain", "keyed"):
            calls = [(SimpleNamespace(shard_key=key if kind == "keyed" else None), draw) for key, draw in draws]
            runs = timeit.repeat(partial(choose_all, choose, calls), timer=time.thread_time, number=20)
            figures[f"{kind}{backends}"] = 1e6 * min(runs) / 20_000
    return figures


def first_calls(seconds: float) -> dict[str, float]:
    """ms of the second call of a new backend of two replicas, whose first takes two seconds: through handles, and over
    HTTP; and how many were in time."""
    import pointsman as serve

    tries, figures = TRIES if seconds > TRIAL_S else TRIES // 10, dict[str, float]()
    with serve.start(http_options={"port": 0}) as client:
        for way, ask in (("handle", _ask_handle), ("http", _ask_http)):
            taken_ms = []
            for number in range(tries):
                name = f"{way}-{number}"
                client.create_backend(name, sleeping, config={"num_replicas": 2})
                client.create_endpoint(name, backend=name, route=f"/{name}", methods=["POST"])
                taken_ms.append(1000 * ask(client, name))
                client.delete_endpoint(name)
                client.delete_backend(name, force=True)
            in_time = TRIES * sum(one <= IN_TIME_MS for one in taken_ms) / tries
            figures |= {
                f"{way}_in_time": in_time,
                f"{way}_p50": statistics.median(taken_ms),
                f"{way}_most": max(taken_ms),
            }
    return figures


def sleeping(request: Any) -> str:
    time.sleep(float(request.body()))
    return "ok"


def _ask_handle(client: Any, name: str) -> float:
    handle = client.get_handle(name)
    handle.remote("2")
    began = time.perf_counter()
    handle.remote("0").result()
    return time.perf_counter() - began


def _ask_http(client: Any, name: str) -> float:
    first, second = (http.client.HTTPConnection(client.http_address.rpartition("/")[2], timeout=30) for _ in "ab")
    with closing(first), closing(second):
        second.connect()
        first.request("POST", f"/{name}", "2")
        time.sleep(0.002)  # so that it is the first that the ingress reads
        began = time.perf_counter()
        second.request("POST", f"/{name}", "0")
        if second.getresponse().read() != b"ok":
            raise RuntimeError("the second call failed")
        return time.perf_counter() - began


def replicas(seconds: float) -> dict[str, float]:
    """Seconds until a no-op backend of one replica is there, and what memory a further replica takes: its share of what
    processes have in common, and its own."""
    import psutil  # type: ignore[import-untyped]

    import pointsman as serve

    def pss_mb() -> float:
        family = psutil.Process().children(recursive=True)
        return 1e-6 * float(sum(member.memory_full_info().pss for member in family))

    times = []
    with serve.start(http_options={"port": 0}) as client:
        for number in range(6):
            began = time.perf_counter()
            client.create_backend(f"b{number}", noop)
            times.append(time.perf_counter() - began)
        time.sleep(1)
        before = pss_mb()
        client.update_backend_config("b0", {"num_replicas": 1 + MORE})
        time.sleep(1)
        return {"start_s": statistics.median(times[1:]), "mb": (pss_mb() - before) / MORE}


def crossing(seconds: float) -> dict[str, float]:
    """µs of handle calls one at a time, from one of two nodes of this machine, to a replica of each of them."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    import ray
    from ray.cluster_utils import Cluster

    import pointsman as serve

    class Caller:
        """Calls from inside a replica, so that nothing but the road to the other replica differs."""

        def __init__(self) -> None:
            self._handles = {name: serve.connect().get_handle(name, sync=False) for name in ("here", "there")}

        async def __call__(self, request: Any) -> dict[str, list[float]]:
            times: dict[str, list[float]] = {"here": [], "there": []}
            for _ in range(BLOCKS):
                for name, handle in self._handles.items():
                    for _ in range(int(request.query_params["calls"]) // BLOCKS):
                        began = time.perf_counter()
                        await (await handle.remote())
                        times[name].append((time.perf_counter() - began) * 1e6)
            return times

    node = {"node_ip_address": "127.0.0.2", "object_store_memory": 80 * 1024 * 1024, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 4, "resources": {"here": 9}})
    cluster.add_node(**node, num_cpus=4, resources={"there": 9})
    with serve.start(engine="ray", address=cluster.address, http_options={"location": None}) as client:
        for name in ("here", "there"):
            client.deploy(name, async_noop, ray_actor_options={"resources": {name: 1}})
        client.deploy("caller", Caller, ray_actor_options={"resources": {"here": 1}})
        caller = client.get_handle("caller")
        caller.remote(calls=CROSSINGS // 5).result()
        times: dict[str, list[float]] = caller.remote(calls=CROSSINGS).result()
    ray.shutdown()
    cluster.shutdown()
    return {name: statistics.median(values) for name, values in times.items()}


def environments(seconds: float) -> dict[str, float]:
    """Seconds that ``create_backend`` takes in several environments, and what is in them. uv makes them, twice: the
    first time fills its cache."""
    import pointsman as serve

    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="pm") as folder, serve.start(http_options={"port": 0}) as client:
        for way, packages in (("installed", [str(ROOT)]), ("linked", list(NEEDED))):
            figures |= {
                f"{way}_{name}": value for name, value in _make(Path(folder, way), [*packages, PACKAGE]).items()
            }
        found = serve.Requirements([PACKAGE])
        client.create_backend("first", noop, env=found)  # which makes it
        ways: list[tuple[str, Any]] = [("caller", None), ("found", found)]
        ways += [(way, serve.VirtualEnv(Path(folder, way))) for way in ("installed", "linked")]
        random.shuffle(ways)
        for way, kind in ways:
            began = time.monotonic()
            client.create_backend(way, noop, env=kind)
            figures[f"{way}_ready_s"] = time.monotonic() - began
            client.delete_backend(way, force=True)
    return figures


def _make(prefix: Path, packages: list[str]) -> dict[str, float]:
    uv, began = [sys.executable, "-m", "uv", "--quiet"], 0.0
    for _ in range(2):
        shutil.rmtree(prefix, ignore_errors=True)
        began = time.monotonic()
        subprocess.run([*uv, "venv", "--python", sys.executable, str(prefix)], check=True, timeout=120)
        python = str(prefix / "bin" / "python")
        subprocess.run([*uv, "pip", "install", "--python", python, *packages], check=True, timeout=600)
    size = sum(path.stat().st_size for path in prefix.rglob("*") if path.is_file() and not path.is_symlink())
    number = len(list(prefix.glob("lib/python3*/site-packages/*.dist-info"))) - 1  # less the backend's own package
    return {"made_s": time.monotonic() - began, "mb": size / 1e6, "packages": number}


if __name__ == "__main__":
    programs = {one.__name__: one for one in (start, choosing, crossing, environments, first_calls, replicas)}
    print(json.dumps(programs[sys.argv[1]](float(sys.argv[2]))))
