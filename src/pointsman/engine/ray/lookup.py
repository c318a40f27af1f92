"""Finds instances of a Ray cluster, and the current addresses of their controllers, which change at a restart."""

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
    """A function that finds the current address of the instance's controller, or None once the instance has ended."""
    namespace = namespace_in(control_path)

    async def locate() -> str | None:
        loop = asyncio.get_running_loop()
        while True:
            # On a new thread: Ray's calls block while the cluster's head does not answer, and would block other uses of
            # a shared one.
            with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="pointsman-locate") as thread:
                found = await loop.run_in_executor(thread, _ask_a_member, namespace)
            if not isinstance(found, _NotNow):
                return found
            await asyncio.sleep(PAUSE_S)

    return locate


class _NotNow:
    """Result if Ray restarts the controller just now, or the cluster does not answer."""


def _ask_a_member(namespace: str) -> str | _NotNow | None:
    with membership.lock:
        return _ask(namespace) if ray.is_initialized() else None  # None: this process has left the cluster


def _ask(namespace: str) -> str | _NotNow | None:
    try:
        controller = ray.get_actor(CONTROLLER, namespace=namespace)
        # Not by ray.get: Ray logs a warning about it in async actors.
        where: WhereAbouts = controller.whereabouts.remote().future().result(ASK_TIMEOUT_S)
    except (ValueError, ActorDiedError):  # the actor has ended for good; one that is restarted raises others
        return None
    except (RayError, concurrent.futures.TimeoutError):
        return _NotNow()
    return where.from_here()


def ask_now(control_path: str) -> str | None:
    """The current address; None once the instance has ended. Raises ConnectionError: there is none at present."""
    found = _ask_a_member(namespace_in(control_path))
    if isinstance(found, _NotNow):
        raise ConnectionError("the controller is nowhere just now")
    return found


def present_address(control_path: str) -> str:
    """The current address. Raises ConnectionError: there is none at present, or the instance has ended."""
    found = ask_now(control_path)
    if found is None:
        raise ConnectionError("the instance has ended")
    return found


def find_instance(name: str, cluster: str | None) -> Address:
    """The live named instance of the cluster at an address; by default of the cluster of this process, or on this
    machine.

    Raises:
        ServeException: there is none.
    """
    _be_member(cluster)
    controller = controller_of(namespace_of(name))
    if controller is None:
        raise ServeException(
            f"no instance named {name!r} is running on this cluster; start one with"
            f" start(detached=True, name={name!r}, engine='ray')"
        )
    return operator_address(controller)


def live_addresses(cluster: str | None) -> list[Address]:
    """All live instances of the cluster at an address. Raises ServeException: there is no cluster."""
    _be_member(cluster)
    actors = ray.util.list_named_actors(all_namespaces=True)
    controllers = [controller_of(a["namespace"]) for a in actors if a["name"] == CONTROLLER and is_ours(a["namespace"])]
    return [operator_address(controller) for controller in controllers if controller is not None]


def address_of(control_path: str) -> Address:
    """The operator's address of an instance of this process's cluster. Raises ServeException: it has ended."""
    controller = controller_of(namespace_in(control_path)) if ray.is_initialized() else None
    if controller is None:
        raise ServeException("the instance of this handle has ended, or this process is not in its Ray cluster")
    set_node(str(ray.get_runtime_context().get_node_id()))
    return operator_address(controller)


def wait_for_end(control_path: str) -> None:
    """Return when the instance has ended."""
    while True:
        with membership.lock:  # not after this process has left its cluster: Ray would start a new one
            controller = controller_of(namespace_in(control_path)) if membership.is_member() else None
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


def controller_of(namespace: str) -> Any:
    try:
        return ray.get_actor(CONTROLLER, namespace=namespace)
    except ValueError:
        return None


def operator_address(controller: Any) -> Address:
    address: Address = ray.get(controller.address.remote(), timeout=START_TIMEOUT_S)
    return address


class WhereAbouts(NamedTuple):
    """Where a controller listens: its node, its Unix socket there, and its TCP address."""

    node: str
    path: str
    tcp: str

    def from_here(self) -> str:
        """The address by which this process reaches it."""
        return nearest(*self)
