"""Finds instances of a Ray cluster, and controllers again that have come up on another port or are gone for good."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import ray
from ray.exceptions import ActorDiedError, RayError

from pointsman.engine.base import Address, Cluster
from pointsman.engine.ray import cluster as membership
from pointsman.engine.ray.folder import (
    CONTROLLER,
    is_ours,
    namespace_in,
    namespace_of,
)
from pointsman.exceptions import ServeException
from pointsman.wire.address import nearest, set_node

START_TIMEOUT_S = 60.0

ASK_TIMEOUT_S = 5.0
PAUSE_S = 0.1


def locator(control_path: str) -> Callable[[], Awaitable[str | None]]:
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
    with membership.lock:
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


def present_address(control_path: str) -> str:
    """The present address. Raises ConnectionError: there is none, just now or for good."""
    found = ask_now(control_path)
    if found is None:
        raise ConnectionError("the instance has ended")
    return found


def find_instance(name: str, cluster: str | None) -> Address:
    """The live named instance of the cluster at an address; of the one that this process is in, or that runs on this
    machine, where none is given.

    Raises:
        ServeException: there is none.
    """
    _be_member(cluster)
    controller = _controller_of(namespace_of(name))
    if controller is None:
        raise ServeException(
            f"no instance named {name!r} is running on this cluster; start one with"
            f" start(detached=True, name={name!r}, engine='ray')"
        )
    return _address(controller)


def live_addresses(cluster: str | None) -> list[Address]:
    """All live instances of the cluster at an address, named or not. Raises ServeException: no cluster is there."""
    _be_member(cluster)
    actors = ray.util.list_named_actors(all_namespaces=True)
    controllers = [
        _controller_of(a["namespace"]) for a in actors if a["name"] == CONTROLLER and is_ours(a["namespace"])
    ]
    return [_address(controller) for controller in controllers if controller is not None]


def address_of(control_path: str) -> Address:
    """How to reach an instance of the cluster that this process is in. Raises ServeException: it has ended."""
    controller = _controller_of(namespace_in(control_path)) if ray.is_initialized() else None
    if controller is None:
        raise ServeException("the instance of this handle has ended, or this process is not in its Ray cluster")
    set_node(str(ray.get_runtime_context().get_node_id()))
    return _address(controller)


def wait_for_end(control_path: str) -> None:
    """Return when the instance has ended."""
    while True:
        with membership.lock:  # not after the shutdown of this process's cluster: Ray would start a new one
            controller = _controller_of(namespace_in(control_path)) if membership.is_member() else None
            if controller is None:
                return
            attended = controller.attend.remote()
        try:
            ray.get(attended)
        except RayError:
            time.sleep(0.05)


def _be_member(address: str | None) -> None:
    if not membership.is_member():
        membership.join(Cluster(address or "auto", allow_insecure=True))
    set_node(str(ray.get_runtime_context().get_node_id()))


def _controller_of(namespace: str) -> Any:
    try:
        return ray.get_actor(CONTROLLER, namespace=namespace)
    except ValueError:
        return None


def _address(controller: Any) -> Address:
    address: Address = ray.get(controller.address.remote(), timeout=START_TIMEOUT_S)
    return address


class WhereAbouts(NamedTuple):
    """Where a controller listens."""

    node: str
    path: str
    tcp: str

    def from_here(self) -> str:
        """The address by which this process reaches it."""
        return nearest(*self)
