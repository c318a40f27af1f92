"""Backend configuration and HTTP options, as users write them, with their validation.

Every error is one sentence that names the field and the value; for an unknown name it suggests the nearest known one.

options  what they have in common
backend  BackendConfig
scaling  AutoscalingConfig
http     HTTPOptions
console  ConsoleOptions

Names are imported on first use: their validation needs pydantic, and who only reads what is stored does without its
9 MB and a tenth of a second.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pointsman.config.backend import BackendConfig as BackendConfig
    from pointsman.config.backend import config_changes as config_changes
    from pointsman.config.backend import config_from_spec as config_from_spec
    from pointsman.config.backend import config_spec as config_spec
    from pointsman.config.console import ConsoleOptions as ConsoleOptions
    from pointsman.config.console import parse_console_options as parse_console_options
    from pointsman.config.http import DEFAULT_BODY_IDLE_TIMEOUT_S as DEFAULT_BODY_IDLE_TIMEOUT_S
    from pointsman.config.http import DEFAULT_BODY_MIN_BYTES_PER_S as DEFAULT_BODY_MIN_BYTES_PER_S
    from pointsman.config.http import DEFAULT_HEAD_TIMEOUT_S as DEFAULT_HEAD_TIMEOUT_S
    from pointsman.config.http import DEFAULT_KEEP_ALIVE_S as DEFAULT_KEEP_ALIVE_S
    from pointsman.config.http import DeploymentMode as DeploymentMode
    from pointsman.config.http import HTTPOptions as HTTPOptions
    from pointsman.config.http import pack_middlewares as pack_middlewares
    from pointsman.config.http import parse_http_options as parse_http_options
    from pointsman.config.options import ConfigError as ConfigError
    from pointsman.config.scaling import AutoscalingConfig as AutoscalingConfig

_HOMES = {
    "BackendConfig": "backend",
    "config_changes": "backend",
    "config_from_spec": "backend",
    "config_spec": "backend",
    "ConsoleOptions": "console",
    "parse_console_options": "console",
    "DEFAULT_BODY_IDLE_TIMEOUT_S": "http",
    "DEFAULT_BODY_MIN_BYTES_PER_S": "http",
    "DEFAULT_HEAD_TIMEOUT_S": "http",
    "DEFAULT_KEEP_ALIVE_S": "http",
    "DeploymentMode": "http",
    "HTTPOptions": "http",
    "pack_middlewares": "http",
    "parse_http_options": "http",
    "ConfigError": "options",
    "AutoscalingConfig": "scaling",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pointsman.config' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"pointsman.config.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
