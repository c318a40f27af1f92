"""Functions and policies of users that other processes import by name: imported here first, so that a mistake is raised
to the caller."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from typing import Any

from pointsman.model import CustomPolicy
from pointsman.model.comparison import Function
from pointsman.model.scaling import ScalingPolicy
from pointsman.routing.ownpolicy import NotAPolicyError, load_policy
from pointsman.usercode.packing import import_object, shown


def custom_policy(path: Any, folders: tuple[str, ...]) -> CustomPolicy:
    """A custom policy by its import path. It is imported here, so that a mistake is raised to the caller and not logged
    by a router.

    Args:
        folders: where routers find it.

    Raises:
        TypeError: not a str, or what it names is no policy.
        ValueError: it cannot be imported, here or by routers.
    """
    if not isinstance(path, str):
        raise TypeError(f"policy must be an import path such as 'package.module:name', not {shown(path)}")
    _check_found_elsewhere("traffic policy", path, folders)
    custom = CustomPolicy(path, folders)
    try:
        load_policy(custom)
    except NotAPolicyError as error:
        raise TypeError(str(error)) from None
    except BaseException as error:
        raise ValueError(f"traffic policy {shown(path)} cannot be imported: {shown(error)}") from error
    return custom


def importable(function: Function, folders: tuple[str, ...]) -> Function:
    """A comparing function, imported here, and with the folders in which other processes find it.

    Raises:
        TypeError: what it names cannot be called.
        ValueError: it cannot be imported, here or by other processes.
    """
    _check_found_elsewhere("comparing function", function.path, folders)
    try:
        found = import_object(function.path, folders)
    except BaseException as error:
        raise ValueError(f"comparing function {shown(function.path)} cannot be imported: {shown(error)}") from error
    if not callable(found):
        raise TypeError(f"comparing function {shown(function.path)} is {shown(found)}, which cannot be called")
    return Function(function.path, folders)


def scaling_policy(path: str, folders: tuple[str, ...]) -> ScalingPolicy:
    """A rule of the user's for numbers of replicas, with the folders in which the controller finds it.

    Raises:
        ImportError: it cannot be imported, here or by the controller.
        TypeError: what it names cannot be called with one argument, or is async.
    """
    try:
        _check_found_elsewhere("autoscaling policy", path, folders)
        found = import_object(path, folders)
    except BaseException as error:
        raise ImportError(f"autoscaling policy {shown(path)} cannot be imported: {shown(error)}") from error
    if not callable(found):
        raise TypeError(f"autoscaling policy {shown(path)} is {shown(found)}, which cannot be called")
    if inspect.iscoroutinefunction(found):
        raise TypeError(f"autoscaling policy {shown(path)} is async; a policy may not wait, so make it a plain def")
    try:
        inspect.signature(found).bind(None)
    except TypeError:
        raise TypeError(f"autoscaling policy {shown(path)} must take one argument, the context") from None
    except ValueError:
        pass  # a builtin, which has no signature that could be read
    return ScalingPolicy(path, folders)


def _check_found_elsewhere(what: str, path: str, folders: tuple[str, ...]) -> None:
    """Check that other processes find the module that this one does.

    Raises:
        ValueError: they do not.
    """
    module = path.replace(":", ".").partition(".")[0]
    if module == "__main__":
        raise ValueError(f"{what} {shown(path)} is part of this script, which no other process can import")
    if module in sys.stdlib_module_names or _origin(module, folders) != _origin(module, _router_order(folders)):
        raise ValueError(f"{what} {shown(path)} is hidden from other processes by an installed module {shown(module)}")


def _router_order(folders: tuple[str, ...]) -> list[str]:
    """The folders as a router searches them: installed packages first, since it appends the driver's own folders."""
    installed = (sys.prefix, sys.base_prefix)
    return sorted(folders, key=lambda folder: not folder.startswith(installed))


def _origin(module: str, folders: Sequence[str]) -> str | None:
    spec = PathFinder.find_spec(module, list(folders))
    return spec.origin if spec is not None else None
