"""One instance under test: its processes by name, its load, and what it must look like again at the end."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

import pointsman as serve
from tests.chaos.checks import Truth, nothing_ran_twice, outcomes_are_true, read_truth
from tests.chaos.load import History, Load
from tests.chaos.models import Worker

if TYPE_CHECKING:
    from tests.cluster.conftest import Nodes

QUICK = {
    "health_check_period_s": 0.5,
    "health_check_timeout_s": 1.0,
    "health_check_failures": 2,
    "graceful_shutdown_timeout_s": 2.0,
    "rollout_watch_s": 0.5,
}
"""Periods that make a row short."""
RATE = 150.0
WAIT_S = 60.0


class Arena:
    """See the module.

    Args:
        seed: of everything that is drawn.
        engine: ``local`` or ``ray``.
        nodes: of the Ray cluster; 0 for one that the instance starts itself.
        tell: is told how far a long row is.
        http: more HTTP options.
    """

    def __init__(
        self,
        seed: int,
        *,
        engine: str = "local",
        nodes: int = 0,
        tell: Callable[[str], object] = lambda text: None,
        **http: Any,
    ) -> None:
        self.chance = random.Random(seed)
        self.seed = seed
        self.engine = engine
        self.tell = tell
        self.folder = Path(tempfile.mkdtemp(prefix="pointsman-chaos-"))
        self.violations: list[str] = []
        self.notes: list[str] = []
        """What a reader may want to know, and what decides nothing."""
        self.figures: dict[str, tuple[float, float]] = {}
        """Name -> seconds measured, and how many there may be."""
        self.histories: list[History] = []
        self.excused = 0
        """Requests that were in flight on an HTTP server when it was killed: nobody can answer those."""
        self.declared: list[str] = []
        """Words that make a traceback in the logs an expected one."""
        self._before = set(_family())
        self.nodes = new_cluster(nodes) if nodes else None
        # Never a cluster that runs here already: it is somebody else's.
        address = self.nodes.address if self.nodes is not None else "local" if engine == "ray" else None
        self.client = serve.start(
            engine=engine,
            address=address,
            metrics_export_port=0,
            http_options={"port": 0, "request_timeout_s": 10, **http},
        )
        self.ended = False

    # What there is

    @property
    def port(self) -> int:
        return int(str(self.client.http_address).rsplit(":", 1)[1])

    def processes(self, role: str) -> list[psutil.Process]:
        """``supervisor``, ``controller``, ``ingress`` or ``replica``."""
        if self.engine == "ray":  # whose processes all look alike
            return self._as_told(role)
        module = "pointsman.engine.local.supervisor" if role == "supervisor" else f"pointsman.{role}"
        found = []
        for process in _family().values():
            with contextlib.suppress(psutil.Error):
                if process.pid not in self._before and module in process.cmdline():
                    found.append(process)
        return found

    def _as_told(self, role: str) -> list[psutil.Process]:
        status = self.client.status()
        pids = {
            "supervisor": [],
            "controller": [status["controller_pid"]],
            "ingress": [ingress["pid"] for ingress in status["http"]["ingresses"]],
            "replica": [r["pid"] for view in status["backends"].values() for r in view["replicas"]],
        }[role]
        return [psutil.Process(pid) for pid in pids if pid and psutil.pid_exists(pid)]

    def replicas(self, backend: str = "w") -> list[int]:
        """Pids of those that serve."""
        view = self.client.status()["backends"][backend]
        return [replica["pid"] for replica in view["replicas"] if replica["state"] == "READY"]

    def state(self, backend: str = "w") -> dict[str, Any]:
        view: dict[str, Any] = self.client.status()["backends"][backend]
        return view

    def truth(self) -> Truth:
        return read_truth(self.folder)

    # What is done

    def deploy(
        self,
        *,
        replicas: int = 3,
        code: Any = Worker,
        arguments: tuple[Any, ...] = (),
        needs: dict[str, Any] | None = None,
        **config: Any,
    ) -> None:
        """The backend and endpoint ``w`` at ``/w``."""
        if needs is None and self.engine == "ray":
            needs = {"num_cpus": 0}  # CPUs are strict there, and this machine may have few
        config = {"num_replicas": replicas, "max_concurrent_queries": 16, **QUICK, **config}
        self.client.deploy("w", code, str(self.folder), *arguments, route="/w", config=config, ray_actor_options=needs)

    @contextlib.contextmanager
    def load(self, path: str = "/w", *, rate: float = RATE, **options: Any) -> Iterator[Load]:
        """Requests as long as the context is open; their history is checked at the end."""
        with Load(self.port, path, rate=rate, seed=self.chance.randrange(2**32), **options) as load:
            yield load
        self.histories.append(load.history)

    def kill(self, pid: int, signum: int = signal.SIGKILL) -> float:
        """Send a signal; returns the time."""
        assert pid > 1, f"{pid} is no process of an instance, and means many"
        os.kill(pid, signum)
        return time.monotonic()

    def wait(self, condition: Callable[[], object], what: str, *, timeout_s: float = WAIT_S) -> bool:
        """Wait for a condition; a violation when it does not come true."""
        end = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > end:
                self.violations.append(f"{what} did not come true within {timeout_s:g} s")
                return False
            time.sleep(0.02)
        return True

    def recovered(self, since: float, bar_s: float, *, backend: str = "w", without: tuple[int, ...] = ()) -> None:
        """Wait until a backend is as wanted, without some processes, and note how long that took."""
        wanted = self.state(backend)["replicas_wanted"]

        def whole() -> bool:
            there = self.replicas(backend)
            return len(there) == wanted and not set(there) & set(without)

        self.wait(whole, f"full strength of backend {backend!r}")
        self.figure("recovery", time.monotonic() - since, bar_s)

    def figure(self, name: str, seconds: float, bar_s: float) -> None:
        """Note a time that has a bar; of several the worst counts."""
        self.figures[name] = max(self.figures.get(name, (0.0, bar_s)), (seconds, bar_s))

    def expect(self, holds: object, otherwise: str) -> None:
        """A violation unless it holds."""
        if not holds:
            self.violations.append(otherwise)

    def check(self, violations: Iterator[str]) -> None:
        """Take up what a check has found."""
        self.violations += violations

    def raises(self, kind: type[BaseException], words: str, function: Callable[[], object]) -> None:
        """A violation unless the call fails in that way."""
        try:
            function()
        except kind as error:
            self.expect(words in str(error), f"the error does not say {words!r}: {error}")
        else:
            self.violations.append(f"a call that should raise {kind.__name__} did not")

    def in_background(self, function: Callable[[], object]) -> Background:
        return Background(function)

    # The end

    def at_rest(self, backends: dict[str, int]) -> None:
        """Everything is back to what these replicas need: processes and files (G11)."""
        expected = {"supervisor": 1, "controller": 1, "ingress": 1, "replica": sum(backends.values())}
        if self.engine == "ray":
            del expected["supervisor"]

        def counts() -> dict[str, int]:
            return {role: len(self.processes(role)) for role in expected}

        self.wait(lambda: counts() == expected, f"processes {expected}")
        if self.engine == "ray":
            return
        sockets = self.sockets()
        self.expect(len(sockets) >= expected["replica"], f"{len(sockets)} sockets for {expected['replica']} replicas")

    def sockets(self) -> list[Path]:
        """Where replicas listen."""
        folder = Path(os.environ["XDG_RUNTIME_DIR"]) / "pointsman"
        return [path for path in folder.glob(".anonymous.*/r/*") if path.is_socket()]

    def close(self) -> None:
        """End the instance; nothing may be left of it, and nothing unexpected in its logs."""
        truth = self.truth()
        for history in self.histories:
            self.violations += [*nothing_ran_twice(history, truth), *outcomes_are_true(history, truth)]
        logs = "" if self.ended or self.engine == "ray" else self._logs()
        self.client.shutdown()
        if self.nodes is not None:
            self.nodes.end()
        self.wait(lambda: not set(_family()) - self._before, "every process of the instance has ended")
        for log in logs.split("Traceback (most recent call last)")[1:]:
            if not any(words in log for words in self.declared):
                self.violations.append(f"an unexpected traceback in the logs: {log[:600]}")
                break
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()

    def _logs(self) -> str:
        """What our own processes have to say; user code's tracebacks are its own affair."""
        folder = Path(os.environ["XDG_RUNTIME_DIR"]) / "pointsman"
        paths = [p for p in folder.glob(".anonymous.*/logs/*.log") if not p.name.startswith("replica")]
        return "\n".join(path.read_text(errors="replace") for path in paths)


def new_cluster(nodes: int) -> Nodes:
    """A Ray cluster of so many nodes, all on this machine."""
    from tests.cluster.conftest import Nodes

    cluster = Nodes()
    for _ in range(nodes - 1):
        cluster.add(num_cpus=2)
    return cluster


class Background:
    """A call on a thread of its own.

    Args:
        function: is called at once.
    """

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self.error: BaseException | None = None
        self.result: object = None
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        try:
            self.result = self._function()
        except BaseException as error:  # noqa: BLE001 - given to whoever asks for the result
            self.error = error

    def join(self, timeout_s: float = 30.0) -> object:
        """What it returned.

        Raises:
            BaseException: what it raised.
            TimeoutError: it has not returned.
        """
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError(f"a call did not return within {timeout_s:g} s")
        if self.error is not None:
            raise self.error
        return self.result


def _family() -> dict[int, psutil.Process]:
    children = psutil.Process().children(recursive=True)
    alive = {}
    for child in children:
        with contextlib.suppress(psutil.Error):
            if child.status() != psutil.STATUS_ZOMBIE:
                alive[child.pid] = child
    return alive
