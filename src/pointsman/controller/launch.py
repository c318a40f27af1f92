"""What a new replica is given: number, tag, keys, environment, and later its assignment."""

from __future__ import annotations

import os
import secrets
import string
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from pointsman.controller import reconcile
from pointsman.controller.observed import Replica
from pointsman.controller.resources import visible_devices
from pointsman.engine.child import pack_handover
from pointsman.model import Allocation
from pointsman.wire.auth import ROLE_GRANT, ROLE_REPLICA, ROLE_ROUTER, derive_key
from pointsman.wire.handover import ControllerHandover, Launch, LaunchNote, ReplicaHandover
from pointsman.wire.messages import pack

NUMBERS_PER_EPOCH = 1_000_000
THREADS_VARIABLE = "OMP_NUM_THREADS"
DEVICES_VARIABLE = "CUDA_VISIBLE_DEVICES"


class Launcher:
    """Makes launch orders.

    Args:
        handover: what this controller was given.
        epoch: which controller of the instance this is; numbers of different epochs never meet.
        environ: the instance's environment, as of ``start``.
    """

    def __init__(self, handover: ControllerHandover, *, epoch: int, environ: Mapping[str, str] = os.environ) -> None:
        self._handover = handover
        self._environ = environ
        self._next = epoch * NUMBERS_PER_EPOCH

    def order(
        self, action: reconcile.Launch, *, now: float, tags: Collection[str], reason: str
    ) -> tuple[Replica, Launch]:
        """A new replica for ``action``, whose tag is none of ``tags``, and the order that starts its process."""
        spec, share = action.spec, _share(action.allocation)
        self._next += 1
        number = self._next
        tag = _new_tag(spec.tag, tags)
        replica = Replica(
            number=number,
            tag=tag,
            backend=spec.tag,
            version=spec.version,
            allocation=share,
            since=now,
            start_reason=reason,
            drain_confirm_s=spec.config.drain_confirm_s,
            drain_timeout_s=spec.config.drain_timeout_s,
            has_close=spec.traits.has_close,
        )
        hand = self._handover
        handover = ReplicaHandover(
            instance=hand.instance,
            number=number,
            control_path=hand.control_path,
            control_key=derive_key(hand.master_key, ROLE_REPLICA, str(number)),
            # A number, never a name, becomes part of a path.
            address=str(Path(hand.folder) / "r" / str(number)),
            data_key=self.data_key(number),
            grant=derive_key(hand.master_key, ROLE_GRANT, str(number)) if hand.client_in_replicas else b"",
            request_timeout_s=hand.request_timeout_s,
            log_format=hand.log_format,
        )
        note = LaunchNote(spec.tag, spec.version, tag, share, reason, spec.traits.has_close)
        order = Launch(
            number=number,
            label=tag,
            env=self._variables(action),
            handover=pack_handover(handover),
            note=pack(note),
            environment=spec.origin.environment,
            allocation=share,
            own_env=spec.resources.env_vars,
        )
        return replica, order

    def data_key(self, number: int) -> bytes:
        """What routers must prove to this replica."""
        return derive_key(self._handover.master_key, ROLE_ROUTER, str(number))

    def _variables(self, action: reconcile.Launch) -> dict[str, str]:
        variables: dict[str, str] = {}
        environment = action.spec.origin.environment
        if THREADS_VARIABLE not in (environment.over(self._environ) if environment else self._environ):
            variables[THREADS_VARIABLE] = str(max(1, int(action.spec.resources.num_cpus)))
        if not action.allocation.node:  # elsewhere the cluster knows its nodes' devices
            variables[DEVICES_VARIABLE] = visible_devices(action.allocation, self._handover.capacity)
        return variables


def _share(allocation: Allocation) -> Allocation:
    """What a replica holds of its node, without what its process is set up with: the notes of all replicas travel
    together."""
    amounts = msgspec.structs.replace(allocation.resources, env_vars={}, working_dir="", py_modules=())
    return msgspec.structs.replace(allocation, resources=amounts)


def _new_tag(backend: str, tags: Collection[str]) -> str:
    while True:
        tag = f"{backend}#{''.join(secrets.choice(string.ascii_letters) for _ in range(6))}"
        if tag not in tags:
            return tag
