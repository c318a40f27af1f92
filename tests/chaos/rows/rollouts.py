"""A rollout whose controller, HTTP server and baseline are killed while it is judged."""

from __future__ import annotations

from tests.chaos.arena import QUICK, Arena
from tests.chaos.checks import cut_by, nothing_but
from tests.chaos.models import Worker
from tests.chaos.rows import row

HELD_S = 2.0
"""By so much the time held may be off after the controller was killed (RO11)."""
LAST_S = 2.0
"""What ends in the last seconds of a rollout may or may not have been read."""


@row(
    "F41",
    "in a rollout the controller is killed at each step, the HTTP server and a replica too",
    engines=("local", "ray"),
)
def killed_in_a_rollout(arena: Arena) -> None:
    arena.deploy(replicas=2)
    client = arena.client
    needs = {"num_cpus": 0} if arena.engine == "ray" else None
    client.create_backend("new", Worker, str(arena.folder), 2, config=dict(QUICK), ray_actor_options=needs)
    kills: list[float] = []
    with arena.load() as load:
        began = load.now()
        client.start_rollout("w", "new", steps=[0.2, 0.5, 1.0], hold_s=5, min_samples=50, gates={"error_rate": {}})
        for step in range(3):
            arena.wait(lambda step=step: _is_held(arena, step), f"step {step} is held for a second")  # type: ignore[misc]
            before = client.rollout("w")
            arena.kill(arena.processes("controller")[0].pid)
            after = client.rollout("w")
            arena.expect(after["step"] == before["step"], f"a killed controller went from {before} to {after}")
            off = abs(after["held_s"] - before["held_s"])
            arena.expect(off <= HELD_S, f"the time held is off by {off:.1f} s")
            arena.expect(after["exposed"] >= before["exposed"], "requests that were counted are gone")
            if step == 1:
                kills.append(load.now())
                arena.kill(arena.processes("ingress")[0].pid)
                arena.kill(arena.replicas()[0])
        arena.wait(lambda: client.rollout("w")["ended"], "the end of the rollout")
        ended = load.now()
        rollout = client.rollout("w")
    arena.expect(rollout["state"] == "promoted", f"{rollout['state']}: {rollout['reason']}")
    new = [e.ended for e in load.history.exchanges if e.version == 2 and e.due > began]
    arena.excused = len(cut_by(load.history, kills))
    least = sum(at < ended - LAST_S for at in new) - arena.excused
    most = sum(at < ended for at in new) + arena.excused
    counted = f"{rollout['exposed']} requests were counted, and {least} to {most} had ended"
    arena.notes.append(counted)
    arena.expect(least <= rollout["exposed"] <= most, counted)
    arena.check(nothing_but(load.history, "delivered", "reset", "unconnected", "failed"))


def _is_held(arena: Arena, step: int) -> bool:
    rollout = arena.client.rollout("w")
    return bool(rollout["step"] == step and rollout["held_s"] >= 1)
