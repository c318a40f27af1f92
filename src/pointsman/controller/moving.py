"""What becomes of backends when another release takes their instance over. Pure.

A backend that was sent from the environment of the old release runs in that of the new one, as if it had been sent from
there: else its replicas would run the old release on. It is not another version of its code.
"""

from __future__ import annotations

import msgspec

from pointsman.controller.state import Desired, Fallback
from pointsman.model import CALLER, BackendSpec, Move


def moved(desired: Desired, move: Move | None) -> Desired:
    """The state after a move; the same object if that changes nothing. Once the instance has come up, the stored state
    has been moved, and what is sent from the old environment later is meant to run there."""
    if move is None or desired.came_up:
        return desired
    backends = {tag: _moved(spec, move) for tag, spec in desired.backends.items()}
    fallbacks = {tag: _back(one, move) for tag, one in desired.fallbacks.items()}
    if backends == desired.backends and fallbacks == desired.fallbacks:
        return desired
    return msgspec.structs.replace(desired, backends=backends, fallbacks=fallbacks)


def _back(fallback: Fallback, move: Move) -> Fallback:
    if fallback.spec is None:
        return fallback
    return msgspec.structs.replace(fallback, spec=_moved(fallback.spec, move))


def _moved(spec: BackendSpec, move: Move) -> BackendSpec:
    before, new = spec.origin.environment, move.environment
    if before is None or before.kind != CALLER or before.name != move.prefix:
        return spec
    if _minor(before.version) != _minor(new.version):
        return spec  # what it has of compiled packages and bytecode is for that Python
    sys_path = tuple(
        entry
        for entry in spec.origin.sys_path
        if entry not in move.left and not (move.prefix != new.name and f"{entry}/".startswith(f"{move.prefix}/"))
    )
    origin = msgspec.structs.replace(spec.origin, sys_path=sys_path, environment=new)
    return msgspec.structs.replace(spec, origin=origin)


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]
