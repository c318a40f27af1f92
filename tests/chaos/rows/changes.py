"""Changes under load: deploys good and bad, scaling, storms, nonsense; clients that leave; splits that must hold."""

from __future__ import annotations

import time
from collections.abc import Callable

from pointsman.exceptions import BackendStartError
from tests.chaos.arena import QUICK, Arena
from tests.chaos.checks import new_version_only, nothing_but, nothing_lost, split_as_wanted, versions_within
from tests.chaos.models import CODE_STEP, Configured, Slow, Worker
from tests.chaos.rows import row


@row("F26", "half of the clients hang up, at any moment")
def clients_leave(arena: Arena) -> None:
    arena.deploy(replicas=1, code=Slow, arguments=(0.02,), max_concurrent_queries=4)
    with arena.load(rate=70, leave_share=0.5) as load:
        load.goes_on(150)
    left = [e for e in load.history.exchanges if e.outcome == "left"]
    begun = arena.truth().begun
    unseen = sum(not begun[e.id] for e in left)
    # 70 requests of 20 ms in a second are more than one replica can do: that it keeps up is due to those taken out.
    arena.expect(unseen > 0.1 * len(left), f"of {len(left)} requests whose clients left only {unseen} did not run")
    arena.check(nothing_but(load.history, "delivered", "left"))
    arena.wait(lambda: arena.state()["state"] == "RUNNING", "all is well")
    with arena.load(rate=30, idempotent_share=1.0) as load:
        load.goes_on(20)
    arena.figure("p99 afterwards", load.history.p99_s(), 1.0)


@row("F30", "a storm of changes from four clients: traffic, scale, create and delete")
def storm(arena: Arena) -> None:
    arena.deploy(replicas=1, max_concurrent_queries=64)
    arena.client.create_backend("v", Worker, str(arena.folder), 2, config={**QUICK, "max_concurrent_queries": 64})
    seconds = 4.0

    def traffic() -> float:
        share = 0.0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            share = round(arena.chance.random(), 3)
            arena.client.set_traffic("w", {"w": share, "v": 1 - share})
        return share

    def scale() -> int:
        replicas = 1
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            replicas = 5 if replicas == 1 else 1
            arena.client.update_backend_config("w", {"num_replicas": replicas})
        return replicas

    def fields() -> int:
        value = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = arena.chance.randrange(100, 2000)
            arena.client.update_backend_config("v", {"max_queued_queries": value})
        return value

    def come_and_go() -> int:
        rounds = 0
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            arena.client.create_endpoint("x", backend="v", route="/x")
            arena.client.delete_endpoint("x")
            rounds += 1
        return rounds

    with arena.load() as load:
        share, replicas, value, rounds = (
            background.join(60)
            for background in [arena.in_background(call) for call in (traffic, scale, fields, come_and_go)]
        )
        load.goes_on(50)
    policy = arena.client.list_endpoints()["w"]["traffic"]
    arena.expect(policy.get("w") == share, f"the traffic is {policy}, and {share} was acknowledged last")
    arena.expect(arena.client.get_backend_config("w").num_replicas == replicas, "another scale is in force")
    arena.expect(arena.client.get_backend_config("v").max_queued_queries == value, "another config is in force")
    arena.expect("x" not in arena.client.list_endpoints(), "a deleted endpoint is there")
    arena.expect(isinstance(rounds, int) and rounds > 2, "endpoints did not come and go")
    arena.check(nothing_but(load.history, "delivered"))
    assert isinstance(replicas, int)
    arena.at_rest({"w": replicas, "v": 1})


@row("F31", "changes that make no sense", short=True)
def nonsense(arena: Arena) -> None:
    arena.deploy(replicas=1)
    client = arena.client
    bad: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (ValueError, "1.1", lambda: client.set_traffic("w", {"w": 1.1})),
        (ValueError, "nan", lambda: client.set_traffic("w", {"w": float("nan")})),
        (ValueError, "no-such", lambda: client.set_traffic("w", {"no-such": 1.0})),
        (ValueError, "no-such", lambda: client.set_traffic("no-such", {"w": 1.0})),
        (ValueError, "characters", lambda: client.create_backend("n" * 1_000_000, Worker, str(arena.folder))),
        (ValueError, "in use", lambda: client.delete_backend("w")),
        (ValueError, "num_replicas", lambda: client.update_backend_config("w", {"num_replicas": 0})),
        (ValueError, "no field", lambda: client.update_backend_config("w", {"replicas": 2})),
        (ValueError, "max_surge", lambda: client.update_backend_config("w", {"max_surge": 0})),
        (ValueError, "exists already", lambda: client.create_endpoint("w", backend="w", route="/w2")),
        (TypeError, "dict", lambda: client.update_backend_config("w", [1])),  # type: ignore[arg-type]
    ]
    with arena.load() as load:
        before, endpoints = client.status(), client.list_endpoints()
        for kind, words, call in bad:
            arena.raises(kind, words, call)
        after = client.status()
        arena.expect(after["version"] == before["version"], "a refused change has changed something")
        arena.expect(client.list_endpoints() == endpoints, "a refused change has changed an endpoint")
        load.goes_on(50)
    arena.check(nothing_but(load.history, "delivered"))


@row("F36", "rolling updates: good versions, one that dies after 2 s, one that fails its check then")
def rolling_updates(arena: Arena) -> None:
    arena.deploy(replicas=2, rollout_watch_s=0.5)
    acknowledged: list[tuple[float, int]] = []
    with arena.load() as load:
        for version in (2, 3, 4):
            arena.client.deploy("w", Worker, str(arena.folder), version)
            acknowledged.append((load.now(), version))
            load.goes_on(20)
        arena.client.update_backend_config("w", {"rollout_watch_s": 5.0})
        for arguments, words in (((98, 2.0), "exit code 9"), ((99, 0.0, 2.0), "goes bad after a while")):
            bad = arena.in_background(lambda a=arguments: arena.client.deploy("w", Worker, str(arena.folder), *a))  # type: ignore[misc]
            arena.raises(BackendStartError, words, lambda bad=bad: bad.join(60))  # type: ignore[misc]
            view = arena.state()
            arena.expect(view["state"] == "DEPLOY_FAILED", f"the state is {view['state']}")
            arena.wait(lambda: len(arena.state()["replicas"]) == 2, "the bad version has gone")
            acknowledged.append((load.now(), 4))
            load.goes_on(20)
    arena.check(nothing_lost(load.history))
    arena.check(versions_within(load.history, (1, 2, 3, 4, 98, 99)))
    for (at, version), (until, _) in zip(acknowledged, [*acknowledged[1:], (float("inf"), 0)], strict=True):
        arena.check(new_version_only(load.history, at, version))
        if version == 4 and until == float("inf"):
            late = [e for e in load.history.exchanges if e.due > at and e.version > 4]
            arena.expect(not late, f"{len(late)} answers came from a version that was taken back")
    # Only the version that dies with requests in its hands may fail some, and only such as must not be repeated.
    good = [e for e in load.history.exchanges if e.due < acknowledged[2][0]]
    arena.expect(all(e.outcome == "delivered" for e in good), "a good update failed requests")
    failed = [e for e in load.history.exchanges if e.outcome == "failed"]
    arena.expect(not any(e.idempotent for e in failed), "a request failed that may be repeated")
    arena.expect(len(failed) <= 6 * 16, f"{len(failed)} requests failed")
    arena.expect(not load.history.count("refused"), "requests were refused")


@row("RC", "100 new configurations and 10 redeploys, one after the other")
def reconfigured(arena: Arena) -> None:
    arena.deploy(replicas=2, code=Configured, arguments=(1,), user_config=0)
    acknowledged: list[tuple[float, int]] = []
    code = 1
    with arena.load() as load:
        for number in range(1, 101):
            arena.client.update_backend_config("w", {"user_config": number})
            acknowledged.append((load.now(), code * CODE_STEP + number))
            if number % 10 == 0:
                code += 1
                arena.client.deploy("w", Configured, str(arena.folder), code)
                acknowledged.append((load.now(), code * CODE_STEP + number))
        load.goes_on(50)
    arena.check(nothing_but(load.history, "delivered"))
    for at, version in acknowledged:
        arena.check(new_version_only(load.history, at, version))
    last = {e.version for e in load.history.exchanges if e.due > acknowledged[-1][0]}
    arena.expect(last == {acknowledged[-1][1]}, f"versions {sorted(last)} answer in the end")
    arena.at_rest({"w": 2})


@row("F37", "scaled up and down every second", short=True)
def scaled(arena: Arena) -> None:
    arena.deploy(replicas=4, max_concurrent_queries=64)
    with arena.load() as load:
        for replicas in (1, 4, 1, 4):
            arena.client.update_backend_config("w", {"num_replicas": replicas})
            load.goes_on(60)
    arena.check(nothing_but(load.history, "delivered"))
    arena.at_rest({"w": 4})


@row("F38", "a traffic split and a shadow, while a replica and the controller are killed")
def split_and_shadow(arena: Arena) -> None:
    arena.deploy(replicas=2)
    for tag in ("v", "shadow"):
        arena.client.create_backend(tag, Worker, str(arena.folder), 2, config=dict(QUICK))
    arena.client.set_traffic("w", {"w": 0.7, "v": 0.3})
    arena.client.shadow_traffic("w", "shadow", 0.5)
    with arena.load(idempotent_share=1.0) as load:
        load.goes_on(100)
        arena.kill(arena.replicas("v")[0])  # its only one: its share waits for the next
        arena.kill(arena.replicas("shadow")[0])
        load.goes_on(100)
        arena.kill(arena.processes("controller")[0].pid)
        load.goes_on(250)
    arena.check(nothing_but(load.history, "delivered"))
    arena.check(split_as_wanted(load.history.exchanges, {"w": 0.7, "v": 0.3}))
