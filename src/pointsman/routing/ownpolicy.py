"""Traffic policies of users: found by their import path, and made. Their module is user code."""

from __future__ import annotations

import inspect
import logging
from typing import Any

from pointsman.model import CustomPolicy, EndpointSpec
from pointsman.policy.traffic import Policy
from pointsman.usercode.packing import import_object, shown

log = logging.getLogger(__name__)


class NotAPolicyError(TypeError):
    """The imported object is not a traffic policy."""


def load_policy(custom: CustomPolicy) -> Policy:
    """Import a custom policy. A class is instantiated without arguments.

    Raises:
        ImportError: the module, or the name in it, does not exist.
        NotAPolicyError: the object has no method ``choose`` that takes a call, a split and a draw, or it is ``async``.
        Exception: raised by user code while it is imported or constructed.
    """
    found: Any = import_object(custom.path, custom.sys_path)
    policy = found() if isinstance(found, type) else found
    choose = getattr(policy, "choose", None)
    try:
        if choose is None:
            raise TypeError
        inspect.signature(choose).bind(None, None, 0.0)
    except TypeError:
        problem = f"{custom.path!r} is {shown(policy)}, which has no method choose(call, split, draw)"
        raise NotAPolicyError(problem) from None
    if inspect.iscoroutinefunction(choose):
        raise NotAPolicyError(
            f"{custom.path!r} has an async method choose; a policy may not wait, so make it a plain def"
        )
    return policy  # type: ignore[no-any-return]


def load_for(endpoint: EndpointSpec) -> Policy | None:
    custom = endpoint.policy.custom
    assert custom is not None
    try:
        return load_policy(custom)
    except BaseException as error:  # noqa: BLE001 - the module is user code, which may even try to exit
        log.error(
            "the traffic policy %r of endpoint %r cannot be used here, and the built-in one takes its place: %s",
            custom.path,
            endpoint.name,
            shown(error),
        )
        return None
