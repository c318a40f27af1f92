"""What only a cluster has to lose: a node, and the head that knows of all of them."""

from __future__ import annotations

import signal
import time

import psutil

from pointsman.exceptions import ServeException
from tests.chaos.arena import Arena
from tests.chaos.checks import failures_are_few, nothing_but, nothing_lost
from tests.chaos.rows import row

RESPAWN_S = 10.0 + 1.5
"""With the start of a Ray worker and its imports, which is what the user's constructor takes here."""
ROOM = "room"


@row("F14", "a node loses power, with replicas on it and the HTTP server on another", engines=("ray",), nodes=1)
def node_lost(arena: Arena) -> None:
    assert arena.nodes is not None
    homes = [arena.nodes.add(num_cpus=4, resources={ROOM: 3}) for _ in range(2)]
    arena.deploy(replicas=4, needs={"num_cpus": 0, "resources": {ROOM: 0.5}})
    before = set(arena.replicas())
    doomed = next(home for home in homes if before & {process.pid for process in _all_of(home)})
    with arena.load(rate=80) as load:
        victims = _all_of(doomed)
        lost = tuple(before & {process.pid for process in victims})
        since = time.monotonic()
        at = load.now()
        for process in victims:
            _kill(process)
        arena.recovered(since, RESPAWN_S, without=lost)
        load.goes_on(60)
    arena.check(nothing_lost(load.history))
    arena.check(nothing_but(load.history, "delivered", "failed"))
    arena.check(failures_are_few(load.history, len(lost) * 16))
    failed = [e.due - at for e in load.history.exchanges if e.outcome == "failed"]
    arena.figure("last request sent to the dead", max(failed, default=0.0), 1.0)


@row("F16", "the cluster's head does not answer for ten seconds", engines=("ray",))
def head_away(arena: Arena) -> None:
    arena.deploy(replicas=2)
    head = next(p for p in psutil.Process().children(recursive=True) if "gcs_server" in p.name())
    before = arena.client.status()
    replicas = sorted(arena.replicas())
    with arena.load(rate=80) as load:
        back = time.monotonic() + 10.0
        arena.kill(head.pid, signal.SIGSTOP)
        try:
            since = time.monotonic()
            arena.raises(
                ServeException, "not durable", lambda: arena.client.update_backend_config("w", {"num_replicas": 3})
            )
            arena.figure("refusal", time.monotonic() - since, 5.0)
            during = arena.client.status()
            arena.expect(during["version"] == before["version"], "a refused change is in force")
            arena.wait(lambda: time.monotonic() > back, "ten seconds have passed")
        finally:
            arena.kill(head.pid, signal.SIGCONT)
        load.goes_on(200)
        arena.expect(arena.client.status()["version"] == before["version"], "something has changed by itself")
        arena.expect(sorted(arena.replicas()) == replicas, "replicas were replaced")
        since = time.monotonic()
        arena.client.create_endpoint("after", backend="w")
        arena.figure("recovery", time.monotonic() - since, 5.0)
    arena.check(nothing_but(load.history, "delivered"))


def _all_of(home: object) -> list[psutil.Process]:
    """A node's processes: what started first, and all that it has started."""
    raylet = psutil.Process(home.all_processes["raylet"][0].process.pid)  # type: ignore[attr-defined]
    return [raylet, *raylet.children(recursive=True)]


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass  # it was quicker
