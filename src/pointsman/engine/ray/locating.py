"""Finding the controller again: it may come up on another port, or be gone for good."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable

import ray
from ray.exceptions import ActorDiedError, RayError

from pointsman.engine.ray import cluster
from pointsman.engine.ray.hosts import WhereAbouts
from pointsman.engine.ray.names import CONTROLLER, namespace_in

ASK_TIMEOUT_S = 5.0
PAUSE_S = 0.1


def locator_on_ray(control_path: str) -> Callable[[], Awaitable[str | None]]:
    """Finds the present address of the controller of an instance; None once the instance has ended."""
    namespace = namespace_in(control_path)

    async def locate() -> str | None:
        loop = asyncio.get_running_loop()
        while True:
            # A thread of its own: Ray's calls block for as long as the cluster's head does not answer.
            with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="pointsman-locate") as thread:
                found = await loop.run_in_executor(thread, _ask_a_member, namespace)
            if not isinstance(found, _NotNow):
                return found
            await asyncio.sleep(PAUSE_S)

    return locate


class _NotNow:
    """The controller is being started again, or the cluster does not answer."""


def _ask_a_member(namespace: str) -> str | _NotNow | None:
    with cluster.membership:
        return _ask(namespace) if ray.is_initialized() else None  # None: this process has left the cluster


def _ask(namespace: str) -> str | _NotNow | None:
    try:
        controller = ray.get_actor(CONTROLLER, namespace=namespace)
        # Not by ray.get, of which Ray warns in actors that have a loop.
        where: WhereAbouts = controller.whereabouts.remote().future().result(ASK_TIMEOUT_S)
    except (ValueError, ActorDiedError):  # no such actor; one that is restarted counts as one that is there
        return None
    except (RayError, concurrent.futures.TimeoutError):
        return _NotNow()
    return where.from_here()


def ask_now(control_path: str) -> str | None:
    """The present address; None once the instance has ended. Raises ConnectionError: there is none just now."""
    found = _ask_a_member(namespace_in(control_path))
    if isinstance(found, _NotNow):
        raise ConnectionError("the controller is nowhere just now")
    return found


def address_now(control_path: str) -> str:
    """The present address. Raises ConnectionError: there is none, just now or for good."""
    found = ask_now(control_path)
    if found is None:
        raise ConnectionError("the instance has ended")
    return found
