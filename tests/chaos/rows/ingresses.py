"""The HTTP server, the instance as a whole, and the port."""

from __future__ import annotations

import signal
import time
from functools import partial

import httpx
import pytest

import pointsman as serve
from tests.chaos.arena import Arena
from tests.chaos.checks import cut_by, new_version_only, nothing_but, nothing_lost
from tests.chaos.models import Streams, Worker
from tests.chaos.rows import row


@row("F10", "the HTTP server is killed", engines=("local", "ray"), short=True)
def killed(arena: Arena) -> None:
    arena.deploy()
    kills = []
    with arena.load() as load:
        for _ in range(2):
            ingress = arena.processes("ingress")[0].pid  # may take a while, in which connections are made
            at = load.now()
            arena.kill(ingress)
            load.goes_on(60)
            kills.append(at)
            after = [e.ended for e in load.history.exchanges if e.outcome == "delivered" and e.due > at]
            arena.figure("recovery", min(after, default=at) - at, 1.5 + 0.5)
    arena.excused = len(cut_by(load.history, kills))
    if arena.engine == "ray":  # where nobody else holds the listening socket
        arena.excused += load.history.count("unconnected")
    else:
        arena.expect(not load.history.count("unconnected"), "connections were refused")
    arena.check(nothing_lost(load.history, except_for=arena.excused))
    arena.check(nothing_but(load.history, "delivered", "reset", "unconnected"))
    arena.at_rest({"w": 3})


@row("F10b", "the HTTP server is killed while the controller is stopped", short=True)
def killed_without_a_controller(arena: Arena) -> None:
    arena.deploy()
    controller, ingress = (arena.processes(role)[0].pid for role in ("controller", "ingress"))
    with arena.load() as load:
        arena.kill(controller, signal.SIGSTOP)
        at = load.now()
        arena.kill(ingress)
        load.goes_on(60)
        after = [e.ended for e in load.history.exchanges if e.outcome == "delivered" and e.due > at]
        arena.figure("recovery", min(after, default=at) - at, 1.5 + 0.5)
        arena.kill(controller, signal.SIGCONT)
        arena.client.deploy("w", Worker, str(arena.folder), 2)
        deployed = load.now()
        load.goes_on(60)
    arena.excused = len(cut_by(load.history, [at]))
    arena.check(nothing_lost(load.history, except_for=arena.excused))
    arena.check(nothing_but(load.history, "delivered", "reset"))
    arena.check(new_version_only(load.history, deployed, 2))


@row("F12", "the HTTP server is asked to end, with streams open", short=True)
def terminated(arena: Arena) -> None:
    arena.deploy()
    arena.client.deploy("s", Streams, route="/s")
    address = str(arena.client.http_address)

    def stream() -> str:
        with httpx.stream("GET", f"{address}/s?chunks=12", timeout=30) as answer:
            return "".join(answer.iter_text())

    with arena.load() as load:
        for _ in range(2):
            streams = [arena.in_background(stream) for _ in range(3)]
            load.goes_on(20)
            ingress = arena.processes("ingress")[0].pid
            since = arena.kill(ingress, signal.SIGTERM)
            for reading in streams:
                whole = "".join(f"{number}\n" for number in range(12))
                arena.expect(reading.join() == whole, "a stream was cut")
            arena.wait(lambda ingress=ingress: ingress not in [p.pid for p in arena.processes("ingress")], "it ended")  # type: ignore[misc]
            load.goes_on(60)
            arena.figure("recovery", time.monotonic() - since, 10.0)
    arena.check(nothing_but(load.history, "delivered"))


@row("F13", "the instance is asked to end, once and twice; its supervisor is killed", short=True)
def supervisor(arena: Arena) -> None:
    arena.deploy(replicas=2)
    address = str(arena.client.http_address)
    everything = ("supervisor", "controller", "ingress", "replica")

    def gone() -> bool:
        return not any(arena.processes(role) for role in everything)

    asking = [
        arena.in_background(lambda: httpx.post(f"{address}/w?wait=1.0", timeout=30).status_code) for _ in range(8)
    ]
    arena.wait(lambda: arena.truth().begun["-"] >= 8, "the requests run")
    since = arena.kill(arena.processes("supervisor")[0].pid, signal.SIGTERM)
    statuses = [background.join() for background in asking]
    arena.expect(statuses == [200] * 8, f"requests under way were answered {statuses}")
    arena.wait(gone, "everything has ended")
    arena.figure("graceful end", time.monotonic() - since, 2.0 + 2.0)
    arena.client.shutdown()

    for signals, bar_s in ((2 * [signal.SIGTERM], 2.0), ([signal.SIGKILL], 3.0)):
        arena.client = serve.start(http_options={"port": 0}, metrics_export_port=0)
        arena.deploy(replicas=2)
        address = str(arena.client.http_address)
        begun = arena.truth().begun["-"]
        hanging = arena.in_background(partial(httpx.get, f"{address}/w?wait=60", timeout=30))
        arena.wait(lambda begun=begun: arena.truth().begun["-"] > begun, "the request runs")  # type: ignore[misc]
        pid = arena.processes("supervisor")[0].pid
        for number, signum in enumerate(signals):
            if number:
                arena.wait(partial(_refuses, address), "the HTTP server drains")
            since = arena.kill(pid, signum)
        arena.wait(gone, f"everything has ended after {signals}")
        arena.figure("hurried end", time.monotonic() - since, bar_s)
        with pytest.raises(httpx.HTTPError):
            hanging.join()
        arena.client.shutdown()
    arena.ended = True


def _refuses(address: str) -> bool:
    try:
        return httpx.get(f"{address}/-/healthz", timeout=0.2).status_code != 200
    except httpx.HTTPError:
        return True


@row("F34", "the port is taken, by our own instance and by another program")
def port_in_use(arena: Arena) -> None:
    arena.deploy(replicas=1)
    with arena.load() as load:
        before = {role: len(arena.processes(role)) for role in ("supervisor", "controller", "ingress", "replica")}
        since = time.monotonic()
        arena.raises(OSError, str(arena.port), lambda: serve.start(http_options={"port": arena.port}))
        arena.raises(
            OSError, "no.such.host.invalid", lambda: serve.start(http_options={"host": "no.such.host.invalid"})
        )
        arena.figure("refusal", (time.monotonic() - since) / 2, 2.0)
        arena.expect({role: len(arena.processes(role)) for role in before} == before, "processes were left behind")
        load.goes_on(50)
    arena.check(nothing_but(load.history, "delivered"))
