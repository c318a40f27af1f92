"""What only a cluster has to lose: a node, and the head that knows of all of them."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import psutil

from pointsman.exceptions import ServeException
from tests.chaos.arena import Arena
from tests.chaos.checks import failures_are_few, nothing_but, nothing_lost
from tests.chaos.load import Load
from tests.chaos.rows import row

if TYPE_CHECKING:
    from tests.cluster.conftest import Nodes

RESPAWN_S = 10.0 + 1.5
"""With the start of a Ray worker and its imports, which is what the user's constructor takes here."""
ROOM = "room"
SHIPPED = {"health_check_period_s": 2.0, "health_check_timeout_s": 3.0, "health_check_failures": 3}
"""Shortened ones would call five seconds a death."""


@row("F14", "a node loses power, with replicas on it and the HTTP server on another", engines=("ray",), nodes=1)
def node_lost(arena: Arena) -> None:
    assert arena.nodes is not None
    homes = [arena.nodes.add(num_cpus=4, resources={ROOM: 3}) for _ in range(2)]
    arena.deploy(replicas=4, needs={"num_cpus": 0, "resources": {ROOM: 0.5}})
    before = set(arena.replicas())
    doomed = next(home for home in homes if before & {process.pid for process in _all_of(arena.nodes, home)})
    with arena.load(rate=80) as load:
        victims = _all_of(arena.nodes, doomed)
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


@row("F15", "a node is not heard of for five seconds, three times", engines=("ray",), nodes=1)
def node_silent(arena: Arena) -> None:
    assert arena.nodes is not None
    homes = [arena.nodes.add(num_cpus=2, resources={ROOM: 1}) for _ in range(2)]
    arena.deploy(replicas=2, needs={"num_cpus": 0, "resources": {ROOM: 0.6}}, **SHIPPED)
    before = sorted(arena.replicas())
    silent = _all_of(arena.nodes, homes[1])
    (cut_off,) = set(before) & {process.pid for process in silent}
    with arena.load(rate=80) as load:
        for _ in range(3):
            until = time.monotonic() + 5.0
            for process in silent:
                process.suspend()
            try:
                arena.wait(lambda until=until: time.monotonic() > until, "five seconds have passed")  # type: ignore[misc]
            finally:
                for process in silent:
                    process.resume()
            at = load.now()
            arena.wait(lambda at=at: _answers_of(load, cut_off, at), "the node's replica is used again")  # type: ignore[misc]
            arena.figure("recovery", load.now() - at, 2.0)
            load.goes_on(80)
    arena.expect(sorted(arena.replicas()) == before, "replicas were replaced")
    arena.check(nothing_but(load.history, "delivered"))


@row("F16", "the cluster's head does not answer for ten seconds", engines=("ray",), nodes=1)
def head_away(arena: Arena) -> None:
    assert arena.nodes is not None
    arena.deploy(replicas=2)
    head = arena.nodes.head_pid
    before = arena.client.status()
    replicas = sorted(arena.replicas())
    with arena.load(rate=80) as load:
        back = time.monotonic() + 10.0
        arena.kill(head, signal.SIGSTOP)
        try:
            for words, change in (
                ("nothing was changed", lambda: arena.client.update_backend_config("w", {"num_replicas": 3})),
                ("was not made", lambda: arena.client.create_endpoint("during", backend="w")),
            ):
                since = time.monotonic()
                arena.raises(ServeException, words, change)
                arena.figure("refusal", time.monotonic() - since, 5.0)
            during = arena.client.status()
            arena.expect(during["version"] == before["version"], "a refused change is in force")
            arena.wait(lambda: time.monotonic() > back, "ten seconds have passed")
        finally:
            arena.kill(head, signal.SIGCONT)
        load.goes_on(200)
        arena.expect(set(arena.client.list_endpoints()) == {"w"}, "a refused change has come to light")
        arena.expect(arena.client.status()["version"] == before["version"], "something has changed by itself")
        arena.expect(sorted(arena.replicas()) == replicas, "replicas were replaced")
        since = time.monotonic()
        arena.client.create_endpoint("after", backend="w")
        arena.figure("recovery", time.monotonic() - since, 5.0)
    arena.check(nothing_but(load.history, "delivered"))


def _all_of(nodes: Nodes, node: object) -> list[psutil.Process]:
    """A node's processes: what started first, and all that it has started."""
    raylet = psutil.Process(nodes.raylet_pid(node))
    return [raylet, *raylet.children(recursive=True)]


def _answers_of(load: Load, pid: int, since: float) -> bool:
    return any(e.pid == pid and e.due > since for e in load.history.exchanges)


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass  # it was quicker
