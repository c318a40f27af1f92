"""Pointsman serves models: replicas, traffic policies and batching behind HTTP, in one ``pip install``.

    import pointsman as serve

Names are imported on first use, so that ``import pointsman`` takes almost no time (decision 0006).
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from pointsman.version import VERSION, import_sources

if os.environ.get("POINTSMAN_PURE"):  # before any other module of ours is imported
    import_sources(os.path.dirname(__file__))

if TYPE_CHECKING:
    from pointsman import backends, config, exceptions, handle, metrics, stats, utils
    from pointsman import comparing as compare
    from pointsman.backends import ImportedBackend
    from pointsman.calling.future import ServeFuture, get, wait
    from pointsman.client import Client
    from pointsman.client.start import connect, start
    from pointsman.config import AutoscalingConfig, BackendConfig, HTTPOptions
    from pointsman.context import get_current_backend_tag, get_current_replica_tag, get_multiplexed_model_id
    from pointsman.environments.kinds import CondaEnv, Requirements, VirtualEnv
    from pointsman.forms import File
    from pointsman.lock.keys import ApiKey
    from pointsman.multiplexing.loader import multiplexed
    from pointsman.request import Request, accept_batch
    from pointsman.running.serving import run
    from pointsman.usercode.mounting import asgi
    from pointsman.usercode.mounting import asgi as ingress

__version__ = VERSION

_HOMES = {
    "accept_batch": "request",
    "asgi": "usercode.mounting",
    "ApiKey": "lock.keys",
    "AutoscalingConfig": "config",
    "BackendConfig": "config",
    "Client": "client",
    "CondaEnv": "environments.kinds",
    "connect": "client.start",
    "get": "calling.future",
    "get_current_backend_tag": "context",
    "get_current_replica_tag": "context",
    "get_multiplexed_model_id": "context",
    "File": "forms",
    "HTTPOptions": "config",
    "ImportedBackend": "backends",
    "multiplexed": "multiplexing.loader",
    "Request": "request",
    "ServeFuture": "calling.future",
    "Requirements": "environments.kinds",
    "run": "running.serving",
    "start": "client.start",
    "VirtualEnv": "environments.kinds",
    "wait": "calling.future",
}
_MODULES = {
    **{name: name for name in ("backends", "config", "exceptions", "handle", "ingress", "metrics", "stats", "utils")},
    "compare": "comparing",
}

__all__ = [
    "accept_batch",
    "ApiKey",
    "asgi",
    "AutoscalingConfig",
    "BackendConfig",
    "Client",
    "CondaEnv",
    "Requirements",
    "VirtualEnv",
    "connect",
    "get",
    "get_current_backend_tag",
    "get_current_replica_tag",
    "get_multiplexed_model_id",
    "File",
    "HTTPOptions",
    "ImportedBackend",
    "ingress",
    "multiplexed",
    "Request",
    "ServeFuture",
    "run",
    "start",
    "wait",
    "backends",
    "compare",
    "config",
    "exceptions",
    "handle",
    "metrics",
    "stats",
    "utils",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"pointsman.{_MODULES[name]}")
    if name in _HOMES:
        value = getattr(importlib.import_module(f"pointsman.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    hint = "" if name.startswith("_") else importlib.import_module("pointsman.ported").of_module(name)
    if hint and sys._getframe(1).f_code.co_name == "_handle_fromlist":
        # "from pointsman import name" asks by hasattr first, and would drop the words of an AttributeError.
        raise ImportError(f"cannot import name {name!r} from 'pointsman'{hint}", name=name)
    raise AttributeError(f"module 'pointsman' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
