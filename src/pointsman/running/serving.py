"""``run`` of Python: models from a dict, served until Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from pointsman.arguments import check_route
from pointsman.client.start import start_named
from pointsman.config import HTTPOptions, parse_http_options
from pointsman.context import in_trial_import, replica_context
from pointsman.exceptions import ServeException
from pointsman.running.example import UNTIL_CTRL_C, Served, served_lines
from pointsman.running.targets import is_app
from pointsman.usercode.mounting import Mounted, asgi
from pointsman.usercode.packing import inspect_code


class _Model(NamedTuple):
    name: str
    code: Any
    args: tuple[Any, ...]


def run(models: Mapping[str, Any], *, name: str = "default", **options: Any) -> None:
    """Start an instance, serve models, say where, and wait until Ctrl-C, SIGTERM, or until another process ends it.

    The requests under way are finished then, and this returns; a second signal hurries that.

        if __name__ == "__main__":
            serve.run({"/rank": Ranker, "/tag": (Tagger, "weights.bin"), "/shop": fastapi_app})

    Args:
        models: by route; each a class, a function, an ASGI app, or a tuple of a class and its init arguments. Backend
            and endpoint have the name of the class or function, with a number behind it for a second one.
        name: of the instance, for ``pointsman status`` and the like. It ends with this process all the same.
        options: other arguments of :func:`start`: ``http_options``, ``engine``, ``num_gpus``, ...

    Raises:
        TypeError, ValueError: an argument is wrong.
        OSError: the port is in use.
        ServeException: an instance of that name runs; or this was called where user code is loaded: put it under
            ``if __name__ == "__main__":``.
        BackendStartError: a constructor failed; nothing is left running.
    """
    if replica_context() is not None or in_trial_import():
        raise ServeException('run() was called while a model is loaded; put it under: if __name__ == "__main__":')
    chosen = _named(models)
    http = parse_http_options(options.pop("http_options", None))
    with start_named(name, bound=True, http_options=http, ready_when_told=True, **options) as client:
        for route, model in chosen.items():
            client.deploy(model.name, model.code, *model.args, route=route)
        client._come_up(told=True)
        served = [Served(one.name, route, inspect_code(one.code, one.args).api) for route, one in chosen.items()]
        key = options.get("api_keys") is not None
        for line in served_lines(client.http_address, served, http=_said(http), key=key):
            print(line)
        if client.console_address:  # on a terminal the link signs in: elsewhere lines are kept, and others read them
            print(f" Console:  {client.console_link() if sys.stdout.isatty() else client.console_address}")
        print(UNTIL_CTRL_C, flush=True)
        client.wait()


def _said(http: HTTPOptions) -> dict[str, Any]:
    return {"tls": http.tls, "docs": http.docs}


def _named(models: Mapping[str, Any]) -> dict[str, _Model]:
    """The models by route, each with a name of its own.

    Raises:
        TypeError, ValueError: one is none, or its route is wrong.
    """
    if not isinstance(models, Mapping) or not models:
        raise TypeError(f"run() takes a dict of route to model, such as {{'/m': Model}}, not {models!r}")
    found: dict[str, _Model] = {}
    names: set[str] = set()
    for route, value in models.items():
        check_route(route)
        code, *args = value if isinstance(value, tuple) and value else (value,)
        code = asgi(code) if is_app(code) and not isinstance(code, Mounted) else code
        inspect_code(code, tuple(args))
        base = _name_of(code, route)
        name = next(one for one in (base, *(f"{base}-{n}" for n in range(2, len(models) + 2))) if one not in names)
        names.add(name)
        found[route] = _Model(name, code, tuple(args))
    return found


def _name_of(code: Any, route: str) -> str:
    name = getattr(code, "__name__", "")
    return name if isinstance(name, str) and name and not isinstance(code, Mounted) else route.strip("/") or "app"
