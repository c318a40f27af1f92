"""Replicas that die, hang, crash again and again, or are killed by what they are asked."""

from __future__ import annotations

import signal
import time

import httpx
import psutil

from pointsman.exceptions import BackendStartError
from tests.chaos.arena import QUICK, Arena
from tests.chaos.checks import failures_are_few, nothing_but, nothing_lost
from tests.chaos.models import Batches, Worker
from tests.chaos.rows import row

USER_INIT_S = 0.5
"""A process of Python and its imports, on a machine that is busy with this very test."""


@row("F1", "a replica is killed, 1 of 3, three times", short=True)
def killed(arena: Arena) -> None:
    arena.deploy(max_concurrent_queries=16)
    with arena.load() as load:
        for _ in range(3):
            victim = arena.chance.choice(arena.replicas())
            since = arena.kill(victim)
            arena.recovered(since, 2.0 + USER_INIT_S, without=(victim,))
            load.goes_on(50)
    arena.check(nothing_lost(load.history))
    arena.check(nothing_but(load.history, "delivered", "failed"))
    arena.check(failures_are_few(load.history, 3 * 16))
    arena.at_rest({"w": 3})


@row("F2", "a replica is killed with a batch of 16 in its hands", short=True)
def killed_in_a_batch(arena: Arena) -> None:
    arena.deploy(
        replicas=2,
        code=Batches,
        arguments=(0.4,),
        max_batch_size=16,
        max_concurrent_queries=48,
        batch_wait_timeout=0.05,
    )
    with arena.load(rate=60) as load:
        load.goes_on(20)
        victim = arena.chance.choice(arena.replicas())
        since = arena.kill(victim)
        arena.recovered(since, 2.0 + USER_INIT_S, without=(victim,))
        load.goes_on(40)
    arena.check(nothing_lost(load.history))
    arena.check(nothing_but(load.history, "delivered", "failed"))
    arena.check(failures_are_few(load.history, 16))


@row("F3", "all replicas are killed at once", short=True)
def all_killed(arena: Arena) -> None:
    arena.deploy(max_concurrent_queries=16)
    with arena.load() as load:
        victims = arena.replicas()
        at = load.now()
        since = time.monotonic()
        for victim in victims:
            arena.kill(victim)
        arena.recovered(since, 2.0 + 3 * USER_INIT_S, without=tuple(victims))
        load.goes_on(100)
    arena.check(nothing_lost(load.history))
    # A request whose first replica died may have been repeated on the next just before that died too.
    arena.check(nothing_but(load.history, "delivered", "failed"))
    arena.expect(load.history.count("failed") <= 3 * 16, f"{load.history.count('failed')} requests failed")
    after = [e.ended - at for e in load.history.exchanges if e.outcome == "delivered" and e.due > at + 0.1]
    arena.figure("first 200", min(after), 1.5 + 3 * USER_INIT_S)
    arena.figure("longest wait", max(e.took for e in load.history.exchanges), 10.5)


@row("F4", "a replica is stopped, 1 of 3, and continued when it is too late", short=True)
def stopped(arena: Arena) -> None:
    arena.deploy(max_concurrent_queries=16)
    with arena.load() as load:
        victim = arena.chance.choice(arena.replicas())
        since = arena.kill(victim, signal.SIGSTOP)
        arena.wait(lambda: victim not in arena.replicas(), "the stopped replica is out of the table")
        arena.figure("detection", time.monotonic() - since, 2.5 + 0.7)
        failure = arena.state()["failure"] or {}
        arena.expect(failure.get("reason") in ("unresponsive", None), f"status says {failure}")
        arena.recovered(since, 5.0, without=(victim,))
        if psutil.pid_exists(victim):
            arena.kill(victim, signal.SIGCONT)
        at = load.now()
        load.goes_on(100)
    arena.check(nothing_lost(load.history))
    arena.check(nothing_but(load.history, "delivered", "failed"))
    arena.check(failures_are_few(load.history, 16))
    stale = [e for e in load.history.exchanges if e.ended > at and e.pid == victim]
    arena.expect(not stale, f"{len(stale)} answers of the stopped replica were delivered")


@row("F5", "user code blocks the event loop: within its time, and for ever", request_timeout_s=3)
def blocks(arena: Arena) -> None:
    arena.deploy(max_concurrent_queries=4)
    before = set(arena.replicas())
    with arena.load(rate=60) as load:
        http = httpx.Client(base_url=str(arena.client.http_address), timeout=30)
        arena.expect(http.get("/w?block=2.5").status_code == 200, "a long request within its deadline was not answered")
        arena.expect(set(arena.replicas()) == before, "a request within its deadline cost a replica")
        since = time.monotonic()
        arena.expect(http.get("/w?block=60").status_code == 504, "a request beyond its deadline got no 504")
        arena.wait(
            lambda: (
                any("blocked" in replica["remark"] for replica in arena.state()["replicas"])
                or set(arena.replicas()) != before
            ),
            "the status says that a replica does not respond",
        )
        arena.wait(lambda: len(before & set(arena.replicas())) == 2, "the wedged replica is killed")
        arena.recovered(since, 3.0 + 2.0 + 2.5 + USER_INIT_S)
        http.close()
        load.goes_on(50)
    # What was handed to the blocked replica waits there, and may have begun, for all that its callers know.
    arena.check(nothing_lost(load.history))
    arena.check(nothing_but(load.history, "delivered", "failed"))
    arena.expect(load.history.count("failed") <= 3 * 4, f"{load.history.count('failed')} requests failed")


@row("F6", "new code that cannot be constructed, and code that dies soon after its start", short=True)
def crash_loop(arena: Arena) -> None:
    arena.deploy(replicas=2)

    class Raises:
        def __init__(self, folder: str) -> None:
            raise RuntimeError("no weights")

        def __call__(self, request: object) -> None: ...

    with arena.load() as load:
        arena.raises(BackendStartError, "no weights", lambda: arena.client.deploy("w", Raises, str(arena.folder)))
        view = arena.state()
        arena.expect(view["state"] == "DEPLOY_FAILED", f"the state is {view['state']}")
        arena.expect("no weights" in (view["failure"] or {}).get("traceback", ""), "status has no traceback")
        arena.client.create_backend("dies", Worker, str(arena.folder), 9, 0.1, config=dict(QUICK))
        arena.wait(lambda: arena.state("dies")["state"] == "UNHEALTHY", "the crash loop is visible")
        arena.wait(
            lambda: (arena.state("dies")["failure"] or {}).get("failures", 0) >= 5, "the quick tries are used up"
        )
        load.goes_on(400)  # for as long as that takes, there is no other try
        failure = arena.state("dies")["failure"] or {}
        arena.expect("exit code 9" in failure.get("text", ""), f"status says {failure}")
        arena.client.delete_backend("dies", force=True)
    starts = [pid for pid, version in arena.truth().constructed if version == 9]
    arena.expect(len(starts) <= 6, f"a crash loop was started {len(starts)} times within seconds")
    arena.check(nothing_but(load.history, "delivered"))


@row("F7", "a request that kills every replica that runs it", short=True)
def poison(arena: Arena) -> None:
    arena.deploy()
    before = set(arena.replicas())
    with arena.load() as load, httpx.Client(base_url=str(arena.client.http_address), timeout=30) as http:
        arena.expect(http.get("/w?poison=1").status_code == 502, "the poisonous request did not get a 502")
        since = time.monotonic()
        arena.recovered(since, 2.0 + 3 * USER_INIT_S)
        gone = len(before - set(arena.replicas()))
        arena.expect(gone == 2, f"{gone} replicas died of one request")
        load.goes_on(50)
    arena.check(nothing_lost(load.history))
    arena.check(nothing_but(load.history, "delivered", "failed"))
    arena.expect(load.history.count("failed") <= 2 * 16, f"{load.history.count('failed')} requests failed")
