"""Makes the ASGI app of a backend, in its replica."""

from __future__ import annotations

import inspect
from typing import Any

from pointsman.replica.lifespan import App
from pointsman.usercode.mounting import MARK, Mounted, is_fastapi, parameters_of
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
    if is_class and is_fastapi(app):
        from pointsman.usercode.fastapi_routes import set_object

        set_object(app, instance)
    return app  # type: ignore[no-any-return]
