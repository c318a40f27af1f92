"""Routes of FastAPI that are methods of a class: they are called with the class's object in a replica.

FastAPI took their ``self`` for a parameter of the query when it saw the functions in the class's body. Here each such
route is made anew, of what it keeps of its arguments, with a copy of the function whose ``self`` is a dependency. That
is done where the class is decorated: annotations that are texts may mean nothing in a replica.
"""

from __future__ import annotations

import inspect
import types
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.requests import HTTPConnection

OBJECT = "pointsman_object"
"""Attribute of the app's state: the object."""


def object_of(connection: HTTPConnection) -> Any:
    """The object whose methods are the routes of the app that a request is for."""
    return getattr(connection.scope["app"].state, OBJECT)


def bind_routes(app: FastAPI, cls: type) -> None:
    """Have the routes of the app that are methods of the class call those of its object."""
    for index, route in enumerate(app.router.routes):
        if isinstance(route, (APIRoute, APIWebSocketRoute)) and _is_method(route.endpoint, cls):
            given = {"dependency_overrides_provider": app, **vars(route)}
            names = [name for name in inspect.signature(type(route).__init__).parameters if name in given]
            arguments = {name: given[name] for name in names}
            arguments["endpoint"] = _with_object(route.endpoint)
            app.router.routes[index] = type(route)(**arguments)


def set_object(app: FastAPI, instance: Any) -> None:
    """Say whose methods the routes are."""
    setattr(app.state, OBJECT, instance)


def _is_method(endpoint: Any, cls: type) -> bool:
    return isinstance(endpoint, types.FunctionType) and getattr(cls, endpoint.__name__, None) is endpoint


def _with_object(function: Any) -> types.FunctionType:
    """A copy of a method that FastAPI calls with the object. The method itself stays as it is, for other callers."""
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__dict__.update(function.__dict__)
    copy.__doc__, copy.__module__, copy.__qualname__ = function.__doc__, function.__module__, function.__qualname__
    copy.__annotations__ = function.__annotations__
    own, *others = inspect.signature(function).parameters.values()
    # FastAPI calls by name, so the others may stand behind a parameter with a default.
    others = [p.replace(kind=p.KEYWORD_ONLY) if p.kind is p.POSITIONAL_OR_KEYWORD else p for p in others]
    own = own.replace(default=Depends(object_of), annotation=own.empty)
    copy.__signature__ = inspect.signature(function).replace(parameters=[own, *others])  # type: ignore[attr-defined]
    return copy
