"""Finds instances on this machine by their folders."""

from __future__ import annotations

from pointsman.engine.base import Address
from pointsman.engine.local.folder import InstanceFolder, folder_of, live_folders
from pointsman.exceptions import ServeException


def is_alive(name: str) -> bool:
    """True if an instance of that name runs on this machine."""
    return InstanceFolder.of(name).is_alive()


def find_instance(name: str, cluster: str | None = None) -> Address:
    """The live named instance.

    Raises:
        ServeException: there is none.
    """
    folder = InstanceFolder.of(name)
    if not folder.is_alive():
        raise ServeException(
            f"no instance named {name!r} is running on this machine; start one with"
            f" start(detached=True, name={name!r}), or find one on a Ray cluster with connect({name!r}, engine='ray')"
        )
    return address_in(folder)


def live_addresses(cluster: str | None = None) -> list[Address]:
    """The addresses of all live instances of this user."""
    return [address_in(folder) for folder in live_folders()]


def address_of(control_path: str) -> Address:
    """The operator's address of an instance. Raises ServeException: it has ended."""
    folder = folder_of(control_path)
    if not folder.is_alive():
        raise ServeException("the instance of this handle has ended")
    return address_in(folder)


def address_in(folder: InstanceFolder) -> Address:
    """The operator's address of the instance of a folder."""
    about = folder.about()
    return Address(
        instance=about.instance,
        control_path=str(folder.control_socket),
        key=folder.read("key"),
        http_host=about.http_host,
        http_port=about.http_port,
        request_timeout_s=about.request_timeout_s,
        metrics_host=about.metrics_host,
        metrics_port=about.metrics_port,
        secure=about.secure,
        console=about.console,
    )


def locator(control_path: str) -> None:
    """None: the control path is the controller's address for good."""


def present_address(control_path: str) -> str:
    """The control path itself."""
    return control_path


def wait_for_end(control_path: str) -> None:
    """Return when the instance has ended."""
    folder_of(control_path).wait_for_end()
