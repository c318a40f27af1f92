"""Makes the ASGI app of a backend, in its replica."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from pointsman.replica.lifespan import App
from pointsman.usercode.mounting import MARK, Mounted, parameters_of
from pointsman.usercode.packing import import_object, shown


def app_of(function_or_class: Any, instance: Any) -> App:
    """The app.

    Args:
        function_or_class: the backend's code.
        instance: the object of a class; None where the backend is an app.

    Raises:
        TypeError: what was given is no app, or makes none.
        Exception: whatever user code raises that makes it.
    """
    is_class = not isinstance(function_or_class, Mounted)
    given = getattr(function_or_class, MARK) if is_class else function_or_class.app
    if is_class and inspect.ismethod(given):
        given = given.__func__  # of a function in the class's dict, which looking it up has bound
    app: Any = import_object(given) if isinstance(given, str) else given
    count = parameters_of(app)
    if count == 1 and not is_class:
        raise TypeError(f"{shown(app)} takes the object of a class, and this backend is an app without one")
    if count < 3:
        app = app(instance) if count else app()
        if not callable(app) or isinstance(app, type) or inspect.isawaitable(app):
            raise TypeError(f"{shown(given)} was to make an ASGI app, and has returned {shown(app)}")
    if is_class:
        _bind_routes(app, instance)
    return app  # type: ignore[no-any-return]


def _bind_routes(app: Any, instance: Any) -> None:
    """Have FastAPI's routes that are methods of the class call those of its object.

    FastAPI took their ``self`` for a parameter of the query when it saw the functions in the class's body. A route
    looks at its function only when it is made, so each is made anew, of what it keeps of its arguments.
    """
    fastapi = sys.modules.get("fastapi")
    if fastapi is None or not isinstance(app, fastapi.FastAPI):
        return
    from fastapi.routing import APIRoute, APIWebSocketRoute

    for index, route in enumerate(app.router.routes):
        if isinstance(route, (APIRoute, APIWebSocketRoute)) and _is_method(route.endpoint, instance):
            given = {"dependency_overrides_provider": app, **vars(route)}
            names = [name for name in inspect.signature(type(route).__init__).parameters if name in given]
            arguments = {name: given[name] for name in names}
            arguments["endpoint"] = getattr(instance, route.endpoint.__name__)
            app.router.routes[index] = type(route)(**arguments)


def _is_method(endpoint: Any, instance: Any) -> bool:
    function = getattr(endpoint, "__func__", endpoint)
    return getattr(type(instance), getattr(function, "__name__", ""), None) is function
