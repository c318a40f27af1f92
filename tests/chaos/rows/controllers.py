"""The controller and its store: killed at bad moments, without room, with damaged files."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import psutil

from pointsman.exceptions import ServeException
from tests.chaos.arena import Arena
from tests.chaos.checks import nothing_but
from tests.chaos.models import Worker
from tests.chaos.rows import row

BACK_S = 1.5 + 1.0
"""A busy machine included: this one also makes the load."""
BACK_OFF_S = 6.0
"""When it is killed again and again the supervisor waits longer each time, as for one that cannot start."""


def _kill_controller(arena: Arena) -> float:
    return arena.kill(arena.processes("controller")[0].pid)


def _back(arena: Arena, since: float, *, bar_s: float = BACK_S) -> None:
    arena.client.status()
    arena.figure("recovery" if bar_s == BACK_S else "recovery, kill after kill", time.monotonic() - since, bar_s)


@row(
    "F8", "the controller is killed: idle, in a deploy, a scale-up, before an acknowledgement", engines=("local", "ray")
)
def killed(arena: Arena) -> None:
    arena.deploy(replicas=2)
    before = sorted(arena.replicas())
    with arena.load() as load:
        _back(arena, _kill_controller(arena))
        arena.wait(lambda: sorted(arena.replicas()) == before, "the same replicas serve")

        scaling = arena.in_background(lambda: arena.client.update_backend_config("w", {"num_replicas": 3}))
        arena.wait(lambda: len(arena.state()["replicas"]) == 3, "the third replica is being started")
        _back(arena, _kill_controller(arena), bar_s=BACK_OFF_S)
        scaling.join()
        arena.expect(len(arena.replicas()) == 3, "the scale-up was not carried out")
        arena.expect(set(before) < set(arena.replicas()), "a scale-up replaced replicas")

        deploying = arena.in_background(lambda: arena.client.deploy("w", Worker, str(arena.folder), 2))
        arena.wait(lambda: len(arena.state()["replicas"]) > 3, "the new version is being started")
        _back(arena, _kill_controller(arena), bar_s=BACK_OFF_S)
        deploying.join()
        at = load.now()

        acknowledged = []
        for number in range(4):
            name = f"e{number}"
            controller = arena.processes("controller")[0].pid
            creating = arena.in_background(lambda name=name: arena.client.create_endpoint(name, backend="w"))  # type: ignore[misc]
            time.sleep(arena.chance.random() * 0.01)  # a moment is drawn, nothing is waited for
            since = arena.kill(controller)
            creating.join()
            acknowledged.append(name)
            _back(arena, since, bar_s=BACK_OFF_S)
        arena.expect(set(acknowledged) < set(arena.client.list_endpoints()), "an acknowledged endpoint is not there")
        load.goes_on(50)
    arena.check(nothing_but(load.history, "delivered"))
    late = [e for e in load.history.exchanges if e.due > at and e.version == 1]
    arena.expect(not late, f"{len(late)} answers of the old version came after the deploy")
    arena.at_rest({"w": 3})


@row("F8b", "the controller is killed while the instance shuts down")
def killed_in_shutdown(arena: Arena) -> None:
    arena.deploy(replicas=2)
    controller = arena.processes("controller")[0].pid
    ending = arena.in_background(arena.client.shutdown)
    time.sleep(arena.chance.random() * 0.1)  # a moment is drawn, nothing is waited for
    if psutil.pid_exists(controller):
        try:
            arena.kill(controller)
        except ProcessLookupError:
            pass  # the shutdown was quicker
    ending.join()
    arena.ended = True
    everything = ("supervisor", "controller", "ingress", "replica")
    arena.wait(lambda: not any(arena.processes(role) for role in everything), "everything has ended")


@row("F9", "the controller is stopped for a while")
def stopped(arena: Arena) -> None:
    arena.deploy(replicas=2)
    before = sorted(arena.replicas())
    controller = arena.processes("controller")[0]
    with arena.load() as load:
        arena.kill(controller.pid, signal.SIGSTOP)
        load.goes_on(450)
        since = arena.kill(controller.pid, signal.SIGCONT)
        _back(arena, since)
        load.goes_on(150)
        arena.expect(sorted(arena.replicas()) == before, "replicas were replaced because nobody had asked them")
    arena.check(nothing_but(load.history, "delivered"))


@row("F17", "no room under the store", short=True)
def no_room(arena: Arena) -> None:
    arena.deploy(replicas=2)
    controller = arena.processes("controller")[0]
    limits = controller.rlimit(psutil.RLIMIT_FSIZE)
    with arena.load() as load:
        for number in range(3):
            before = arena.client.list_endpoints()
            controller.rlimit(psutil.RLIMIT_FSIZE, (0, limits[1]))
            since = time.monotonic()
            refused: Callable[[], None] = lambda: arena.client.create_endpoint("more", backend="w")  # noqa: E731
            arena.raises(ServeException, "not durable", refused)
            arena.figure("refusal", time.monotonic() - since, 5.0)
            arena.expect(arena.client.list_endpoints() == before, "a refused change is in force")
            load.goes_on(50)
            controller.rlimit(psutil.RLIMIT_FSIZE, limits)
            arena.client.create_endpoint(f"e{number}", backend="w")
        arena.expect(arena.processes("controller")[0].pid == controller.pid, "the controller died")
        _back(arena, _kill_controller(arena))
        arena.expect(set(arena.client.list_endpoints()) == {"w", "e0", "e1", "e2"}, "the store has another state")
    arena.check(nothing_but(load.history, "delivered"))
