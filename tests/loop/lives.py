"""Made-up lives of an instance: what is done to it, and when, drawn from a seed.

seed -> steps: commands, crashes, delays -> tests.loop.simulation
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from pointsman.model import BackendConfigSpec, Origin, Resources, Source, TargetTraits
from pointsman.wire.apply import Plan, WantedBackend, WantedEndpoint
from pointsman.wire.commands import (
    Apply,
    Change,
    CreateBackend,
    CreateEndpoint,
    DeleteBackend,
    DeleteEndpoint,
    Deploy,
    SetTraffic,
    TakeBack,
    UpdateBackendConfig,
)
from pointsman.wire.scaling import UnloadBackend, WakeBackend

ORIGIN = Origin("/", ())
TRAITS = TargetTraits(is_class=True, has_reconfigure=True)
BAD = "bad"
GPUS = 4
"""Where they are scarce: fewer than two backends want at their largest, or one while its code changes. Some come and
go, as with the nodes of a cluster."""
CONFIRM_S = 2.0
DRAIN_S = 4.0


@dataclass(frozen=True)
class Step:
    """Something that is done from outside, after a pause."""

    pause_s: float
    what: str
    command: Change | None = None
    number: float = 0.0

    def __str__(self) -> str:
        subject = "" if self.command is None else f" {self.command}"
        return f"  +{self.pause_s:.2f} s  {self.what} {self.number:.2f}{subject}"


def is_scarce(seed: int) -> bool:
    """Whether each replica needs one of a few GPUs."""
    return seed % 3 == 2


def steps_of(seed: int, count: int = 14) -> list[Step]:
    """What happens, drawn from a seed. Seeds that are odd have faults of processes, too."""
    chance = random.Random(seed)
    resources = Resources(num_cpus=0, num_gpus=1) if is_scarce(seed) else Resources()
    kinds = ["command"] * 10 + ["controller dies"] * 3 + ["store fails"]
    if seed % 2:
        kinds += ["replica dies"] * 2 + ["replica stops", "router is slow", "router comes"]
    if is_scarce(seed):
        kinds += ["capacity changes"] * 2
    steps = []
    for index in range(count):
        what = chance.choice(kinds)
        command = _command(chance, f"c{index}", resources, sleeps=not is_scarce(seed)) if what == "command" else None
        steps.append(Step(chance.choice((0.0, 0.01, 0.3, 1.0, 3.0)), what, command, chance.random()))
    return steps


def _command(chance: random.Random, command_id: str, resources: Resources, *, sleeps: bool) -> Change:
    """``sleeps``: backends may be without replicas, which where room is scarce they might not come back from."""
    tag = chance.choice("ab")
    replicas = chance.randint(1, 3)
    code = BAD if chance.random() < 0.2 else f"good {replicas % 2}"
    config = BackendConfigSpec(
        num_replicas=replicas,
        drain_confirm_s=CONFIRM_S,
        drain_timeout_s=DRAIN_S,
        rollout_watch_s=1.0,
        idle_timeout_s=1e6 if sleeps else None,
    )
    if sleeps and chance.random() < 0.15:
        return chance.choice((UnloadBackend, WakeBackend))(command_id, tag)
    kind = chance.choice(("create", "deploy", "deploy", "scale", "scale", "user_config", "field", "delete", "endpoint",
                          "traffic", "no endpoint", "apply", "apply", "apply", "take back"))  # fmt: skip
    if kind == "apply":
        return _apply(chance, command_id, resources, config)
    if kind == "take back":
        return TakeBack(command_id, f"c{chance.randint(0, int(command_id[1:]))}")
    if kind == "create":
        return CreateBackend(command_id, tag, code, ORIGIN, TRAITS, config, resources)
    if kind == "deploy":
        changes = {"num_replicas": replicas, "drain_confirm_s": CONFIRM_S, "drain_timeout_s": DRAIN_S}
        changes["rollout_watch_s"] = 1.0
        changes["idle_timeout_s"] = config.idle_timeout_s
        return Deploy(command_id, tag, code, ORIGIN, TRAITS, changes, None, resources, None, None, None)
    if kind == "scale":
        return UpdateBackendConfig(command_id, tag, {"num_replicas": replicas})
    if kind == "user_config":
        value = b"bad" if chance.random() < 0.3 else b"%d" % replicas
        return UpdateBackendConfig(command_id, tag, {"user_config": None}, value)
    if kind == "field":
        return UpdateBackendConfig(command_id, tag, {"max_queued_queries": replicas})
    if kind == "delete":
        return DeleteBackend(command_id, tag, chance.random() < 0.3)
    if kind == "endpoint":
        return CreateEndpoint(command_id, "e", tag, "/e", ("GET",), False)
    if kind == "traffic":
        return SetTraffic(command_id, chance.choice(("a", "b", "e")), {tag: 1.0})
    return DeleteEndpoint(command_id, chance.choice(("a", "b", "e")))


def _apply(chance: random.Random, command_id: str, resources: Resources, config: BackendConfigSpec) -> Apply:
    """A file of one or two backends, and perhaps an endpoint; its ``base`` is set when it is sent."""
    tags = chance.sample("ab", chance.randint(1, 2))
    backends = {}
    for tag in tags:
        code = BAD if chance.random() < 0.2 else "good"
        source = Source(f"m:{code}", args=b"[]", version=str(chance.randint(1, 2)))
        backends[tag] = WantedBackend(code, ORIGIN, TRAITS, config, resources, source)
    endpoints = {}
    if chance.random() < 0.5:
        endpoints["e"] = WantedEndpoint("/e", ("GET",), dict.fromkeys(tags, 1 / len(tags)))
    gone = tuple({"a", "b"}.difference(tags)) if chance.random() < 0.3 else ()
    plan = Plan(backends=backends, endpoints=endpoints, delete_backends=gone)
    codes = {one.code: b"code" for one in backends.values()}
    return Apply(id=command_id, owner="shop", base=0, plan=plan, codes=codes)
