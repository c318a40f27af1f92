"""What is wanted and what there is, for tests of what :mod:`~pointsman.controller.reconcile` plans."""

from __future__ import annotations

from typing import Any, TypeVar

from pointsman.controller.failures import Failures
from pointsman.controller.observed import Observed
from pointsman.controller.reconcile import Action, Configure, Drain, Kill, Leave
from pointsman.controller.replicas import Phase, Replica, Replicas
from pointsman.controller.state import Desired, Fallback
from pointsman.model import Allocation, BackendConfigSpec, BackendSpec, Capacity, Origin, Resources, TargetTraits

ORIGIN = Origin("/", ())

A = TypeVar("A")

GPU = Resources(num_cpus=0, num_gpus=1)
TRAITS = TargetTraits(is_class=True, has_reconfigure=True)


def backend(
    replicas: int = 1,
    *,
    tag: str = "b",
    version: int = 1,
    config_version: int | None = None,
    resources: Resources | None = None,
    **config: Any,
) -> BackendSpec:
    return BackendSpec(
        tag=tag,
        version=version,
        config_version=version if config_version is None else config_version,
        code="code",
        origin=ORIGIN,
        traits=TRAITS,
        config=BackendConfigSpec(num_replicas=replicas, **config),
        resources=resources or Resources(),
    )


def want(*specs: BackendSpec, starting: bool = False) -> Desired:
    """These backends; ``starting`` ones have something to go back to."""
    fallbacks = {spec.tag: Fallback(None) for spec in specs} if starting else {}
    return Desired(9, {spec.tag: spec for spec in specs}, {}, fallbacks)


def replica(
    number: int,
    phase: Phase = Phase.READY,
    *,
    tag: str = "b",
    version: int = 1,
    config_version: int = 1,
    sent_version: int | None = None,
    since: float = 0.0,
    resources: Resources | None = None,
    gpus: tuple[int, ...] = (),
    **more: Any,
) -> Replica:
    return Replica(
        number=number,
        tag=f"{tag}#{number}",
        backend=tag,
        version=version,
        allocation=Allocation(resources or Resources(), gpus),
        since=since,
        phase=phase,
        config_version=config_version,
        sent_version=config_version if sent_version is None else sent_version,
        **more,
    )


def see(
    *replicas: Replica,
    capacity: Capacity | None = None,
    failures: dict[str, Failures] | None = None,
    confirmed: dict[int, int] | None = None,
) -> Observed:
    observed = Observed(
        capacity or Capacity(), Replicas({r.number: r for r in replicas}), failures or {}, confirmed or {}
    )
    observed.validate()
    return observed


def only(actions: list[Action], kind: type[A]) -> list[A]:
    return [action for action in actions if isinstance(action, kind)]


def numbers(actions: list[Action], kind: type[Leave] | type[Kill] | type[Drain] | type[Configure]) -> list[int]:
    return [action.number for action in only(actions, kind)]
