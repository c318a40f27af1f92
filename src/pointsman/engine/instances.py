"""Starts and finds instances on either engine, and locates their controllers.

The only module that chooses between the engines, which have the same names in the same files: ``driver``, ``lookup``,
``folder``. The Ray engine's ``lookup`` and ``driver`` import Ray, so they are imported only for instances on Ray; its
``folder`` does not import Ray. Those of the local engine are imported on use, too: every replica imports this module,
and each module costs each replica memory and time to start.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pointsman.engine.base import Address, Plan, Raised, url
from pointsman.engine.local import folder as local_folder
from pointsman.engine.ray import folder as ray_folder
from pointsman.engine.ray.folder import RAY_PREFIX
from pointsman.engine.relay import ask_relay, locator_by_relay, relay_here
from pointsman.exceptions import ServeException
from pointsman.model import Resources

if TYPE_CHECKING:
    from pointsman.engine.local.lasttable import LastTable


class Lookup(Protocol):
    """Finds instances; the module ``lookup`` of each engine."""

    def find_instance(self, name: str, cluster: str | None) -> Address: ...

    def live_addresses(self, cluster: str | None) -> list[Address]: ...

    def address_of(self, control_path: str) -> Address: ...

    def locator(self, control_path: str) -> Callable[[], Awaitable[str | None]] | None: ...

    def present_address(self, control_path: str) -> str: ...

    def wait_for_end(self, control_path: str) -> None: ...


class Folders(Protocol):
    """The folders of an instance on this node; the module ``folder`` of each engine."""

    def metrics_folder(self, control_path: str) -> Path: ...

    def log_folders(self, control_path: str) -> dict[str, Path]: ...


def on_ray(control_path: str) -> bool:
    """True if the instance with that control path runs on the Ray engine."""
    return control_path.startswith(RAY_PREFIX)


def _lookup(ray: bool) -> Lookup:
    if ray:
        from pointsman.engine.ray import lookup

        return lookup
    from pointsman.engine.local import lookup as local_lookup

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
    from pointsman.engine.local import driver as local_driver

    return local_driver.raise_instance(plan)


def find_instance(name: str, engine: str, cluster: str | None = None) -> Address:
    """The live named instance.

    Args:
        cluster: address of the Ray cluster; None for that of this process, or one on this machine.

    Raises:
        ServeException: there is none.
    """
    return _lookup(engine == "ray").find_instance(name, cluster)


def find_anywhere(name: str) -> Address:
    """The live named instance on either engine: on this machine, or in the Ray cluster that this process is in.

    A process that is in no cluster looks at the one in ``RAY_ADDRESS`` only if there is no such instance on this
    machine, since it has to join the cluster for that.

    Raises:
        ServeException: there is none; or there are two, and the text says how to choose.
    """
    from pointsman.engine.local import lookup as local_lookup

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
    found = url(address.http_host, address.http_port, secure=address.secure)
    return f" at {found}" if found else ""


def _in_a_cluster() -> bool:
    ray = sys.modules.get("ray")  # a process in a cluster has imported it
    return ray is not None and bool(ray.is_initialized())


def _names_a_cluster() -> bool:
    return bool(os.environ.get("RAY_ADDRESS")) and importlib.util.find_spec("ray") is not None


def live_addresses(cluster: str | None) -> list[Address]:
    """The addresses of all live instances of this user on this machine, and of those of a cluster if one is given.

    Raises:
        ServeException: no cluster runs at that address.
    """
    found = _lookup(False).live_addresses(None)
    return found if cluster is None else found + _lookup(True).live_addresses(cluster)


def named_on_cluster(cluster: str) -> list[tuple[str, Address]]:
    """Names and addresses of the live named instances of a Ray cluster. Raises ServeException: there is no cluster."""
    found = [(ray_folder.name_in(one.control_path), one) for one in _lookup(True).live_addresses(cluster)]
    return sorted((name, address) for name, address in found if name)


def parse_actor_options(options: Mapping[str, Any] | None, control_path: str) -> Resources:
    """The resources of each replica of a backend from its ``ray_actor_options``, and on Ray the placement.

    Raises:
        TypeError, ValueError: an option that the engine does not know, or a bad value.
    """
    if on_ray(control_path):
        from pointsman.engine.ray.options import parse_options

        return parse_options(options)
    # Imported here: it needs pydantic, which the environments of replicas need not have, and they import this module.
    from pointsman import actor_options

    return actor_options.parse_actor_options(options)


def address_of(control_path: str) -> Address:
    """The operator's address of the instance with that control path.

    Raises:
        ServeException: it has ended, or is not accessible to this user.
    """
    return _lookup(on_ray(control_path)).address_of(control_path)


def locator(control_path: str) -> Callable[[], Awaitable[str | None]] | None:
    """A function that finds the controller's current address, or None once the instance has ended. None in place of the
    function if the control path is the address and never changes."""
    if on_ray(control_path) and relay_here():
        return locator_by_relay(relay_here())
    return _lookup(on_ray(control_path)).locator(control_path)


def present_address(control_path: str) -> str:
    """The controller's current address, for a thread that has no loop.

    Raises:
        OSError: there is none at present.
    """
    if on_ray(control_path) and relay_here():
        return ask_relay(relay_here())
    return _lookup(on_ray(control_path)).present_address(control_path)


def wait_for_end(control_path: str) -> None:
    """Return when the instance has ended."""
    _lookup(on_ray(control_path)).wait_for_end(control_path)


def metrics_folder(control_path: str) -> Path:
    """The folder of the instance's metrics files on this node."""
    return _folders(control_path).metrics_folder(control_path)


def pairs_folder(control_path: str) -> Path:
    """The folder of the instance's compared answers on this node (:mod:`pointsman.telemetry.pairs`)."""
    return metrics_folder(control_path).with_name("c")


def tallies_folder(control_path: str) -> Path:
    """The folder of the instance's tallies on this node."""
    return metrics_folder(control_path).with_name("t")


def log_folders(control_path: str) -> dict[str, Path]:
    """The folders of the instance's log files, or of files that say where those are, by the beginning of a node's name;
    only of nodes on this machine. The local engine has one folder, under an empty name."""
    return _folders(control_path).log_folders(control_path)


def last_table(control_path: str) -> LastTable | None:
    """The file with the newest routing table; None on a Ray cluster, whose nodes share no folder."""
    from pointsman.engine.local.lasttable import LastTable

    return None if on_ray(control_path) else LastTable(local_folder.folder_of(control_path))
