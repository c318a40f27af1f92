"""What ``start`` was told of CPUs, GPUs, memory and other resources: checked, and as the engines take it; and of
Ray clusters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pointsman import actor_options as amounts
from pointsman.engine.base import Cluster
from pointsman.model import Capacity

MAX_SPARES = 1000


def local_capacity(
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    memory: float | None = None,
    resources: Mapping[str, float] | None = None,
) -> Capacity:
    """What the local engine may allocate. Amounts that are not given are detected; CPUs are then not limited.

    Raises:
        TypeError, ValueError: an amount is wrong.
    """
    gpus = amounts.detect_gpus()
    asked = _whole_gpus(num_gpus)
    count = len(gpus) if asked is None else asked
    given_memory = amounts.check_capacity("memory", memory)
    return Capacity(
        num_cpus=amounts.check_capacity("num_cpus", num_cpus),
        num_gpus=count,
        memory=amounts.detect_memory() if given_memory is None else given_memory,
        custom=amounts.parse_custom_resources(resources, "resources"),
        gpu_ids=gpus[:count] if len(gpus) >= count else (),
    )


def cluster_amounts(
    num_cpus: float | None, num_gpus: float | None, memory: float | None, resources: Mapping[str, float] | None
) -> dict[str, Any]:
    """Arguments with which a new Ray cluster is started; Ray detects what is not given.

    Raises:
        TypeError, ValueError: an amount is wrong.
    """
    found = {
        "num_cpus": amounts.check_capacity("num_cpus", num_cpus),
        "num_gpus": _whole_gpus(num_gpus),
        "memory": amounts.check_capacity("memory", memory),
        "resources": amounts.parse_custom_resources(resources, "resources") or None,
    }
    return {name: amount for name, amount in found.items() if amount is not None}


def check_spares(number: Any, engine: str) -> int:
    """Check how many processes shall wait for a backend.

    Raises:
        TypeError: not an int.
        ValueError: below 0 or over 1,000, or the engine cannot have any.
    """
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"spare_replicas must be an int, not {number!r}")
    if not 0 <= number <= MAX_SPARES:
        raise ValueError(f"spare_replicas must be between 0 and {MAX_SPARES}, not {number!r:.20}")
    if number and engine != "local":
        raise ValueError(
            f"spare_replicas {number} needs engine 'local': on a Ray cluster it is Ray that keeps processes ready, and"
            " none can change its resources once it has started"
        )
    return number


def _whole_gpus(num_gpus: float | None) -> int | None:
    asked = amounts.check_capacity("num_gpus", num_gpus)
    if asked is not None and asked % 1:
        raise ValueError(f"num_gpus {num_gpus!r} of start() must be a whole number")
    return None if asked is None else int(asked)


def cluster_options(engine: str, address: str | None, wait_s: float | None, allow_insecure: bool) -> Cluster:
    """The options about a Ray cluster. Raises ValueError if one is given for another engine."""
    given = {"address": address, "wait_for_resources_s": wait_s, "allow_insecure_cluster": allow_insecure or None}
    if engine != "ray" and any(value is not None for value in given.values()):
        names = ", ".join(name for name, value in given.items() if value is not None)
        raise ValueError(f"{names} of start() says something of a Ray cluster; give engine='ray' too")
    return Cluster(address, bool(allow_insecure), amounts.check_capacity("wait_for_resources_s", wait_s) or 0.0)
