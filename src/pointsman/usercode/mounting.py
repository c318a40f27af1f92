"""ASGI apps as backends: the mark by which a class, or an object in place of one, says that it has an app."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from typing import Any, TypeVar

C = TypeVar("C", bound=type)

MARK = "__serve_asgi__"
"""Attribute of a decorated class: what was given to :func:`asgi`."""


class Mounted:
    """A backend that is an ASGI app; also a decorator, which gives a class an app.

    Attributes:
        app: what was given to :func:`asgi`.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, cls: C) -> C:
        if not isinstance(cls, type):
            raise TypeError(
                f"serve.asgi(app) decorates a class; as a backend it is given as it is, not called: {cls!r}"
            )
        setattr(cls, MARK, self.app)
        if is_fastapi(self.app):
            from pointsman.usercode.fastapi_routes import bind_routes

            bind_routes(self.app, cls)
        return cls

    def __repr__(self) -> str:
        return f"serve.asgi({self.app!r})"


def asgi(app: Any) -> Mounted:
    """Serve an ASGI app: FastAPI, Starlette, Litestar, Django and others, as they are.

    As a backend: ``client.create_backend("shop", serve.asgi(app))``. As a decorator of a class, whose methods may be
    the app's routes, in FastAPI's way: ``@serve.asgi(app)``. The endpoint's route is the prefix under which the app
    is mounted.

    Args:
        app: the app, which is shipped to the replicas; or ``"module:name"``, which they import; or a function without
            parameters that makes it there. For a class also a function of one parameter, the class's object.

    Returns:
        A backend for ``create_backend`` and ``deploy``, and in ``serve.run``.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(app, str):
        if not all(app.partition(":")):
            raise TypeError(f"an app is imported by 'module:name', not {app!r}")
    elif isinstance(app, type) or not callable(app):
        raise TypeError(f"serve.asgi takes an ASGI app, 'module:name', or a function that makes the app, not {app!r}")
    else:
        parameters_of(app)
    return Mounted(app)


def parameters_of(app: Any) -> int:
    """How many arguments make an app of ``app``: 0 or 1 for a function that makes one; 3 for an app.

    Raises:
        TypeError: it takes another number.
    """
    if not isinstance(app, (types.FunctionType, types.MethodType, functools.partial)):
        return 3
    parameters = inspect.signature(app).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters) or len(required) == 3:
        return 3
    if len(required) > 1 or any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        raise TypeError(
            f"{app!r} is no ASGI app, which takes scope, receive and send, and no function that makes one, which takes"
            " nothing, or the class's object"
        )
    return len(required)


def is_fastapi(app: Any) -> bool:
    """Whether an app is one of FastAPI, which is not imported for the answer."""
    fastapi = sys.modules.get("fastapi")
    return fastapi is not None and isinstance(app, fastapi.FastAPI)


def has_app(function_or_class: Any) -> bool:
    """Whether a backend is an ASGI app, or has one."""
    return isinstance(function_or_class, Mounted) or (
        isinstance(function_or_class, type) and getattr(function_or_class, MARK, None) is not None
    )
