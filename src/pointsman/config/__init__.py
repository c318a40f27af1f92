"""Backend configuration and HTTP options, as users write them, with their validation.

Every error is one sentence that names the field and the value; for an unknown name it suggests the nearest known one.

options  what they have in common
backend  BackendConfig
scaling  AutoscalingConfig
http     HTTPOptions
console  ConsoleOptions
"""

from __future__ import annotations

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
