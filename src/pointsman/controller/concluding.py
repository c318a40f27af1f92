"""Ends the changes of backends: a change that has come up is completed, one that cannot is taken back."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pointsman.controller import reconcile, transitions
from pointsman.controller.observed import Observed
from pointsman.controller.state import Desired
from pointsman.controller.store import StoreError
from pointsman.controller.store.base import DurableState
from pointsman.controller.waiters import StartFailure
from pointsman.wire.apply import DONE

log = logging.getLogger(__name__)

#: If the store fails, it is tried again so much later.
AGAIN_S = 1.0


class Conclusions:
    """Makes the end of a change durable.

    Args:
        durable: the store.
        observed: its failures of a backend are forgotten with the change that they belong to.
        desired: returns the current desired state.
        again: called with a backend whose change could not be ended, to plan it again later.
        touch: called with backends that are to be planned again.
    """

    def __init__(
        self,
        *,
        durable: DurableState,
        observed: Observed,
        desired: Callable[[], Desired],
        again: Callable[[str], None],
        touch: Callable[..., None],
    ) -> None:
        self._durable = durable
        self._observed = observed
        self._desired = desired
        self._again = again
        self._touch = touch

    async def conclude(self, action: reconcile.Confirm | reconcile.Revert, now: str) -> bool:
        """Complete or take back a backend's last change, or the apply that it is part of. ``now`` is ISO 8601.

        Returns:
            True if an apply has ended: what was planned for its other backends is out of date.
        """
        before, tag = self._desired(), action.backend
        running = before.running
        operation = running if running is not None and tag in running.backends else None
        try:
            if isinstance(action, reconcile.Confirm):
                new = transitions.confirmed(before, tag, now)
            else:
                failure = StartFailure(tag, self._observed.failures[tag])
                new = transitions.reverted(before, tag, str(failure), failure.traceback, now)
            await self._durable.commit(new)
        except StoreError as error:
            log.error("%s", error)
            self._again(tag)
            return False
        if operation is not None:
            ended = new.operations[operation.id]
            log.log(
                logging.INFO if ended.state == DONE else logging.WARNING,
                "version %d: apply of %r by %s is %s %s",
                *(new.version, ended.owner, ended.by or "someone", ended.state, ended.text),
            )
        tags = operation.backends if operation is not None else (tag,)
        for one in tags:
            self._forget(one, before, new, failed=isinstance(action, reconcile.Revert) and one == tag)
        self._touch(*tags)
        return operation is not None

    def _forget(self, tag: str, before: Desired, new: Desired, *, failed: bool) -> None:
        """Begin to count failures anew. Those of the change that has ``failed`` are kept to be shown."""
        failures = self._observed.failures.get(tag)
        if failures is None:
            return
        if not failed:
            del self._observed.failures[tag]
        elif tag in new.fallbacks:
            failures.forget()  # an earlier change of it goes on now, and has not failed yet
        else:
            version = before.backends[tag].config_version
            failures.roll_back(version)
            log.warning("backend %r could not be brought up as version %d; going back", tag, version)
