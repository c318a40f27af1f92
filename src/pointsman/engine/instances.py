"""Instances, whichever engine runs them: raise one, find one, learn where its controller is and when it has ended.

The only module that chooses between the engines, which have the same names in the same files: ``driver``, ``lookup``,
``folder``. Of the Ray engine ``lookup`` and ``driver`` import Ray, so they are imported when one of its instances is
meant, and not before; ``folder`` does without.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pointsman.engine.base import Address, Plan, Raised, url
from pointsman.engine.local import driver as local_driver
from pointsman.engine.local import folder as local_folder
from pointsman.engine.local import lookup as local_lookup
from pointsman.engine.local.lasttable import LastTable
from pointsman.engine.ray import folder as ray_folder
from pointsman.engine.ray.folder import RAY_PREFIX
from pointsman.engine.relay import ask_relay, locator_by_relay, relay_here
from pointsman.exceptions import ServeException
from pointsman.model import Resources


class Lookup(Protocol):
    """Finds instances; the module ``lookup`` of each engine."""

    def find_instance(self, name: str, cluster: str | None) -> Address: ...

    def live_addresses(self, cluster: str | None) -> list[Address]: ...

    def address_of(self, control_path: str) -> Address: ...

    def locator(self, control_path: str) -> Callable[[], Awaitable[str | None]] | None: ...

    def present_address(self, control_path: str) -> str: ...

    def wait_for_end(self, control_path: str) -> None: ...


class Folders(Protocol):
    """What an instance keeps on this node; the module ``folder`` of each engine."""

    def metrics_folder(self, control_path: str) -> Path: ...

    def log_folders(self, control_path: str) -> dict[str, Path]: ...


def on_ray(control_path: str) -> bool:
    """Whether the instance with that control path runs on the Ray engine."""
    return control_path.startswith(RAY_PREFIX)


def _lookup(ray: bool) -> Lookup:
    if ray:
        from pointsman.engine.ray import lookup

        return lookup
    return local_lookup


def _folders(control_path: str) -> Folders:
    return ray_folder if on_ray(control_path) else local_folder


def raise_instance(plan: Plan, engine: str) -> Raised:
    """Start an instance. Returns before it is ready.

    Raises:
        OSError: the HTTP port cannot be bound, or the host not resolved; names both.
        ServeException: a live instance has that name or state folder.
    """
    if engine == "ray":
        from pointsman.engine.ray import driver

        return driver.raise_instance(plan)
    return local_driver.raise_instance(plan)


def find_instance(name: str, engine: str, cluster: str | None = None) -> Address:
    """The live named instance.

    Args:
        cluster: address of the Ray cluster, None for the one that is here.

    Raises:
        ServeException: there is none.
    """
    return _lookup(engine == "ray").find_instance(name, cluster)


def find_anywhere(name: str) -> Address:
    """The live named instance, wherever it was started: on this machine, or in the Ray cluster that this process is in.
    Where it is in none, the one that ``RAY_ADDRESS`` names is looked at only if there is no such instance here, since
    to look there is to join.

    Raises:
        ServeException: there is none; or one on this machine and one in the cluster, and the text says how to choose.
    """
    member = _in_a_cluster()
    here = local_lookup.find_instance(name) if local_lookup.is_alive(name) else None
    if not member and (here is not None or not _names_a_cluster()):
        return here or local_lookup.find_instance(name)
    try:
        there = find_instance(name, "ray")
    except ServeException as error:
        if here is None:
            raise ServeException(f"no instance named {name!r} is running on this machine, and: {error}") from None
        return here
    if here is None:
        return there
    raise ServeException(
        f"two instances are named {name!r}, one on this machine{_at(here)} and one on the Ray cluster{_at(there)};"
        f" choose by connect({name!r}, engine='local') or connect({name!r}, engine='ray')"
    )


def _at(address: Address) -> str:
    found = url(address.http_host, address.http_port)
    return f" at {found}" if found else ""


def _in_a_cluster() -> bool:
    ray = sys.modules.get("ray")  # who is in a cluster has imported it
    return ray is not None and bool(ray.is_initialized())


def _names_a_cluster() -> bool:
    return bool(os.environ.get("RAY_ADDRESS")) and importlib.util.find_spec("ray") is not None


def live_addresses(cluster: str | None) -> list[Address]:
    """How to reach all live instances of this user on this machine and, where its address is given, of a Ray cluster.

    Raises:
        ServeException: no cluster runs there.
    """
    found = local_lookup.live_addresses(None)
    return found if cluster is None else found + _lookup(True).live_addresses(cluster)


def named_on_cluster(cluster: str) -> list[tuple[str, Address]]:
    """Live named instances of a Ray cluster, and how to reach them. Raises ServeException: there is no cluster."""
    found = [(ray_folder.name_in(one.control_path), one) for one in _lookup(True).live_addresses(cluster)]
    return sorted((name, address) for name, address in found if name)


def parse_actor_options(options: Mapping[str, Any] | None, control_path: str) -> Resources:
    """What each replica of a backend needs, from ``ray_actor_options``, and on a cluster where it may run.

    Raises:
        TypeError, ValueError: an option that the engine does not know, or a bad value.
    """
    if on_ray(control_path):
        from pointsman.engine.ray.options import parse_options

        return parse_options(options)
    from pointsman import actor_options  # not by replicas, whose environment need not have what that imports

    return actor_options.parse_actor_options(options)


def address_of(control_path: str) -> Address:
    """How to reach, as its operator, the instance with that control path.

    Raises:
        ServeException: it is not this user's, or has ended.
    """
    return _lookup(on_ray(control_path)).address_of(control_path)


def locator(control_path: str) -> Callable[[], Awaitable[str | None]] | None:
    """Finds the controller's present address, None once the instance has ended; or no such function, where the control
    path is the address for good."""
    if on_ray(control_path) and relay_here():
        return locator_by_relay(relay_here())
    return _lookup(on_ray(control_path)).locator(control_path)


def present_address(control_path: str) -> str:
    """The controller's present address, for a thread that has no loop.

    Raises:
        OSError: it is nowhere just now.
    """
    if on_ray(control_path) and relay_here():
        return ask_relay(relay_here())
    return _lookup(on_ray(control_path)).present_address(control_path)


def wait_for_end(control_path: str) -> None:
    """Return when the instance has ended."""
    _lookup(on_ray(control_path)).wait_for_end(control_path)


def metrics_folder(control_path: str) -> Path:
    """Where the metrics of the instance with that control path lie on this node."""
    return _folders(control_path).metrics_folder(control_path)


def log_folders(control_path: str) -> dict[str, Path]:
    """Where the log files of that instance are, or word of where they are: beginning of a node's name -> folder, of
    nodes on this machine. On one machine there is one, without a name."""
    return _folders(control_path).log_folders(control_path)


def last_table(control_path: str) -> LastTable | None:
    """Where the newest routing table of that instance is kept; None on a cluster, whose nodes share no folder."""
    return None if on_ray(control_path) else LastTable(local_folder.folder_of(control_path))
