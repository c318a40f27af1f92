"""Checks of arguments that several public methods have: names, routes, HTTP methods, engines, timeouts."""

from __future__ import annotations

import importlib.util
import math
import numbers
from collections.abc import Iterable
from typing import Any, Literal, overload

from pointsman.exceptions import ServeException
from pointsman.limits import MAX_ROUTE, check_size
from pointsman.policy.routes import parse_route

#: Deadline of a request, to the first byte of its answer. Here and not in ``config``, which imports pydantic: the
#: controller needs it, and an instance waits for the controller to start.
DEFAULT_REQUEST_TIMEOUT_S = 300.0
#: Longest name of an endpoint or backend, in characters.
MAX_NAME = 200


def check_object_name(name: Any, what: str) -> str:
    """Check the name of an endpoint or backend; returns it.

    Args:
        what: the argument's name in the error's text.

    Raises:
        TypeError: not a str.
        ValueError: empty, too long, or not printable.
    """
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a str, not {name!r}")
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        shown = repr(name) if len(name) <= MAX_NAME else f"{name[:20]!r}... ({len(name)} characters)"
        raise ValueError(f"{what} {shown} must be 1-{MAX_NAME} printable characters")
    return name


def check_version(version: Any) -> str | None:
    """Check a user's word for the version of a backend; returns it.

    Raises:
        TypeError: not a str.
        ValueError: too long, or not printable.
    """
    if version is None:
        return None
    if not isinstance(version, str):
        raise TypeError(f"version must be a str such as '2', not {version!r}")
    if len(version) > MAX_NAME or not version.isprintable():
        raise ValueError(f"version {version[:20]!r} must be at most {MAX_NAME} printable characters")
    return version


def check_route(route: Any) -> str | None:
    """Check an endpoint's route; returns it. None is for no route.

    Raises:
        TypeError: not a str that starts with a slash.
        ValueError: a malformed template, a reserved path, or a path that is longer than any request line.
    """
    if route is None:
        return None
    if not isinstance(route, str) or not route.startswith("/"):
        raise TypeError(f"route must be a str that starts with '/', not {route!r}")
    check_size(f"route {route[:40]!r}... takes", len(route.encode(errors="replace")), MAX_ROUTE)
    parse_route(route)
    return route


@overload
def check_methods(methods: Any, default: tuple[str, ...]) -> tuple[str, ...]: ...


@overload
def check_methods(methods: Any, default: None) -> tuple[str, ...] | None: ...


def check_methods(methods: Any, default: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Check HTTP methods; returns them in upper case without duplicates, or ``default`` if ``methods`` is None.

    Raises:
        TypeError: not a list of str.
        ValueError: an empty list.
    """
    if methods is None:
        return default
    if not isinstance(methods, list):
        raise TypeError(f"methods must be a list of str, not {methods!r}")
    for method in methods:
        if not isinstance(method, str):
            raise TypeError(f"methods must be a list of str, and it has {method!r}")
    if not methods:
        raise ValueError("methods [] allows no request; name at least one, such as 'GET'")
    return tuple(dict.fromkeys(method.upper() for method in methods))


def check_engine(name: str) -> Literal["local", "ray"]:
    """Check the name of an engine; returns it.

    Raises:
        ValueError: there is no such engine.
        ServeException: the engine's own requirements are not installed.
    """
    if name == "local":
        return "local"
    if name != "ray":
        raise ValueError(f"engine {name!r} is unknown; use 'local' or 'ray'")
    if importlib.util.find_spec("ray") is None:
        raise ServeException(
            "engine 'ray' needs Ray, which is not installed; run in a clone of Pointsman: pip install '.[ray]'"
        )
    return "ray"


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: the most similar known name, or all known names."""
    import difflib  # for errors alone, and every replica imports this module

    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else f"; it has {', '.join(known)}"


def check_timeout(timeout_s: Any, what: str) -> float | None:
    """Check a number of seconds; returns it as a float, or None.

    Args:
        what: the argument's name in the error's text.

    Raises:
        TypeError: not a number.
        ValueError: not finite, or not above 0.
    """
    if timeout_s is None:
        return None
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, numbers.Real):
        raise TypeError(f"{what} must be a number of seconds or None, not {timeout_s!r}")
    try:
        seconds = float(timeout_s)
    except OverflowError:
        seconds = float("inf")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{what} must be a finite number of seconds above 0, not {timeout_s!r}")
    return seconds


def check_max_body(size: Any) -> float | None:
    """Check a largest body in bytes; returns it, or None.

    Raises:
        TypeError: neither an int nor infinite.
        ValueError: below 0.
    """
    if size is None or (isinstance(size, float) and size == math.inf):
        return size
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"max_body_bytes must be an int, math.inf or None, not {size!r}")
    if not 0 <= size < 2**63:
        raise ValueError(f"max_body_bytes must be at least 0 and below 2**63, not {size!r:.20}")
    return size
