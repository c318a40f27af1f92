"""Whether two instances fit beside each other while one takes over from the other. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from pointsman.controller.allocation import CapacityLedger, describe_request
from pointsman.exceptions import InsufficientResourcesError
from pointsman.model import Allocation, Capacity, Resources


class NoRoomError(InsufficientResourcesError):
    """Both do not fit. Nothing has changed."""


def share_capacity(capacity: Capacity, held: Iterable[Allocation]) -> tuple[Capacity, Capacity]:
    """All that an instance has, with the GPUs that nobody holds first, and what of that is free, which has only them:
    a GPU has the same number in both.

    Args:
        held: what replicas hold.
    """
    held = list(held)
    devices = capacity.gpu_ids or tuple(map(str, range(capacity.num_gpus)))
    used = {index for one in held for index in one.gpus}
    order = sorted(range(len(devices)), key=lambda index: (index in used, index))
    whole = msgspec.structs.replace(capacity, gpu_ids=tuple(devices[index] for index in order))
    custom = {
        name: amount - sum(one.resources.custom.get(name, 0.0) for one in held)
        for name, amount in capacity.custom.items()
    }
    cpus = capacity.num_cpus
    free = msgspec.structs.replace(
        whole,
        num_gpus=len(devices) - len(used),
        num_cpus=None if cpus is None else cpus - sum(one.resources.num_cpus for one in held),
        memory=capacity.memory - sum(one.resources.memory for one in held),
        custom=custom,
    )
    return whole, free


def check_room(free: Capacity, wanted: Mapping[str, tuple[Resources, int]]) -> None:
    """Check that the replicas of these backends fit a second time.

    Args:
        free: what the running ones leave.
        wanted: what a replica of each backend needs, and how many there shall be.

    Raises:
        NoRoomError: they do not; says which, and what is free.
    """
    ledger = CapacityLedger(free, [])
    for tag, (needs, count) in wanted.items():
        for _ in range(count):
            if ledger.place(needs) is None:
                raise NoRoomError(
                    f"there is no room for both releases side by side: backend {tag!r} needs"
                    f" {describe_request(needs, count)} once more, and these are free:"
                    f" {ledger.describe()}"
                )


def check_memory(needed: int, left: int | None) -> None:
    """Check that there is memory for the replicas once more.

    Args:
        needed: bytes that those that run have for themselves.
        left: bytes that the machine has left; None if that is not known.

    Raises:
        NoRoomError: there is not.
    """
    if left is not None and needed > left:
        raise NoRoomError(
            f"there is no room for both releases side by side: the running replicas use {needed / 1e6:.0f} MB of"
            f" memory, and {left / 1e6:.0f} MB are left"
        )
