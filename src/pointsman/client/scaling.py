"""Operations on numbers of replicas that follow the calls, down to 0 and back, and policies of the user's."""

from __future__ import annotations

import numbers
from typing import Any

import msgspec

from pointsman import arguments
from pointsman.client.importing import scaling_policy
from pointsman.client.operations import Operations, new_id
from pointsman.model import Autoscaling, BackendSpec
from pointsman.usercode.paths import import_folders
from pointsman.wire.scaling import ScaleBackend, UnloadBackend, WakeBackend

HOLD_S = 600.0


class ScalingOperations(Operations):
    """Fixes numbers of replicas, unloads and wakes backends."""

    def scale(self, backend_tag: str, replicas: int, hold_s: float = HOLD_S, *, wait: bool = True) -> None:
        """Fix the number of an autoscaled backend's replicas for a while; returns when they are ready. Where there is
        no room for all of them it returns when those are ready that there is room for: the others follow, and the
        status says what is missing. Replicas that are too many finish their calls, which is not waited for.

        Args:
            backend_tag: tag of the backend.
            replicas: 0 to the largest number that the backend may have.
            hold_s: seconds from now, after which the number follows the calls again. Default 600. Another ``scale``
                replaces this one.
            wait: False returns as soon as the number is decided.

        Raises:
            TypeError: an argument is of another type.
            ValueError: the backend is unknown or not autoscaled, or a number is outside its range. Nothing has changed.
            BackendStartError: the constructor has failed three times; its cause is the user's exception. The number
                stays fixed, and replicas are tried again.
        """
        tag = arguments.check_object_name(backend_tag, "backend_tag")
        number = _check_replicas(replicas)
        seconds = arguments.check_timeout(hold_s, "hold_s") if isinstance(hold_s, numbers.Real) else None
        if seconds is None:
            raise TypeError(f"hold_s must be a number of seconds, not {hold_s!r}")
        if not isinstance(wait, bool):
            raise TypeError(f"wait must be True or False, not {wait!r}")
        self._change(ScaleBackend(new_id(), tag, number, seconds), backend=tag if wait else None, fixed=wait)

    def release(self, backend_tag: str) -> None:
        """Let the number of an autoscaled backend's replicas follow the calls again, which :meth:`scale` has fixed.

        Args:
            backend_tag: tag of the backend.

        Raises:
            TypeError, ValueError: the tag is wrong, or the backend unknown or not autoscaled. Nothing has changed.
        """
        tag = arguments.check_object_name(backend_tag, "backend_tag")
        self._change(ScaleBackend(new_id(), tag, 0, 0.0))

    def wake(self, backend_tag: str) -> None:
        """Have the replicas of a backend that has none started; returns when they are ready, at once where it has
        some.

        An autoscaled one gets its ``min_replicas``, at least 1, any other its ``num_replicas``. Where there is no room
        for them, idle backends that may be without replicas are unloaded; where that is not enough, this waits for
        room. A number that :meth:`scale` has fixed at 0 is not fixed any more.

        Args:
            backend_tag: tag of the backend.

        Raises:
            TypeError, ValueError: the tag is wrong, or the backend unknown.
            BackendStartError: the constructor has failed three times; its cause is the user's exception. Replicas are
                tried again, as those that calls have woken.
        """
        tag = arguments.check_object_name(backend_tag, "backend_tag")
        self._change(WakeBackend(new_id(), tag), backend=tag, woken=True)

    def unload(self, backend_tag: str) -> None:
        """Drain a backend to 0 replicas; returns when the last one has finished its calls and is gone. The next call
        for it, or :meth:`wake`, loads it again.

        Args:
            backend_tag: tag of the backend.

        Raises:
            TypeError, ValueError: the tag is wrong, the backend unknown, or may not be without replicas: that needs an
                ``idle_timeout_s``, or autoscaling with ``min_replicas`` 0. Nothing has changed.
        """
        tag = arguments.check_object_name(backend_tag, "backend_tag")
        self._change(UnloadBackend(new_id(), tag), backend=tag, gone=True)


def find_policy(changes: dict[str, Any], present: BackendSpec | None) -> None:
    """Have the changes of a config say where its autoscaling policy is found, if there is one.

    Raises:
        TypeError, ImportError: it is none, or cannot be imported.
    """
    if changes.get("autoscaling") is not None:
        old = present.config.autoscaling if present is not None else None
        changes["autoscaling"] = with_policy(changes["autoscaling"], old)


def with_policy(autoscaling: Autoscaling, old: Autoscaling | None) -> Autoscaling:
    """The autoscaling, with where its policy is found. ``old`` is the present one. Raises as :func:`find_policy`."""
    if autoscaling.policy is None:
        return autoscaling
    try:
        policy = scaling_policy(autoscaling.policy.path, import_folders())
    except ImportError:
        # Whoever reads a config, changes another field and sends it back need not have its policy.
        if old is None or old.policy is None or old.policy.path != autoscaling.policy.path:
            raise
        policy = old.policy
    return msgspec.structs.replace(autoscaling, policy=policy)


def _check_replicas(replicas: Any) -> int:
    if isinstance(replicas, bool) or not isinstance(replicas, int):
        raise TypeError(f"replicas must be an int, not {replicas!r}")
    if not 0 <= replicas < 2**63:
        raise ValueError(f"replicas must be at least 0 and no more than the backend may have, not {replicas!r:.20}")
    return replicas
