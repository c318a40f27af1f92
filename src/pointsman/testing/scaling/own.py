"""A policy of the user's in a simulation: in this process, and asked at each look as a controller would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from pointsman.model.scaling import Autoscaling
from pointsman.policy.scaling.context import NoAnswerError, answer_of, context
from pointsman.policy.scaling.decide import LOOK_S, decide
from pointsman.policy.scaling.seen import Seen, Verdict
from pointsman.usercode.packing import import_object, shown
from pointsman.usercode.paths import import_folders

TAG = "simulated"


class Own:
    """A user's policy. Bounds, factors and delays are those of the built-in rule, which also decides while the policy
    gives no number. As in a controller, an answer counts at the look after it was asked for.

    Args:
        policy: takes the context, and returns a number of replicas, or a number and a state.
    """

    every_s = LOOK_S

    def __init__(self, policy: Callable[..., Any], config: Autoscaling) -> None:
        self._policy = policy
        self._config = config
        self._memory: Any = None
        self._wants: float | None = None
        self._state: Any = {}

    def look(self, seen: Seen, now: float) -> Verdict:
        """Decide with the policy's last answer, and ask it again."""
        seen = msgspec.structs.replace(seen, policy_wants=self._wants)
        verdict = decide(seen, self._config, now, self._memory)
        self._memory = verdict.memory
        told = context(seen, self._config, now, verdict, tag=TAG, state=self._state)
        self._wants, problem = None, ""
        try:
            self._wants, self._state = answer_of(self._policy(told), self._state)
        except NoAnswerError as error:
            problem = f"the policy fails: {error}"
        except Exception as error:  # noqa: BLE001 - user code: the built-in rule decides, as in a controller
            problem = f"the policy fails: it raised {shown(error)}"
        return msgspec.structs.replace(verdict, remark=problem or verdict.remark)


def imported(path: str) -> Callable[..., Any]:
    """A policy by its import path, ``module:name``.

    Raises:
        ImportError: it cannot be imported.
        TypeError: it cannot be called.
    """
    try:
        found = import_object(path, import_folders())
    except BaseException as error:
        raise ImportError(f"autoscaling policy {shown(path)} cannot be imported: {shown(error)}") from error
    if not callable(found):
        raise TypeError(f"autoscaling policy {shown(path)} is {shown(found)}, which cannot be called")
    return found  # type: ignore[no-any-return]  # whatever it is, it can be called
