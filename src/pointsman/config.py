"""Backend configuration and HTTP options, as users write them, with their validation.

Every error is one sentence that names the field and the value; for an unknown name it suggests the nearest known one.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pointsman.arguments import DEFAULT_REQUEST_TIMEOUT_S, nearest
from pointsman.limits import MAX_BODY, MAX_MESSAGE, MAX_MIDDLEWARES, check_size
from pointsman.lock.hosts import ANY, check_hosts, check_proxies
from pointsman.lock.origins import cors_spec
from pointsman.lock.tls import check_tls
from pointsman.model import BackendConfigSpec
from pointsman.usercode import byvalue
from pointsman.usercode.culprit import explain
from pointsman.usercode.packing import check_http_methods

DEFAULT_MAX_BODY = 64 * 1024 * 1024
DEFAULT_KEEP_ALIVE_S = 60.0
DEFAULT_HEAD_TIMEOUT_S = 10.0
DEFAULT_BODY_IDLE_TIMEOUT_S = 30.0
DEFAULT_BODY_MIN_BYTES_PER_S = 1024
DEFAULT_MAX_MESSAGE = 16 * 1024 * 1024

#: Messages have no longer numbers.
PositiveInt = Annotated[int, Field(ge=1, lt=2**63)]
#: The controller places replicas one by one, also those that request nothing, so that their number needs a limit.
MAX_REPLICAS = 10_000
Replicas = Annotated[int, Field(ge=1, le=MAX_REPLICAS)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

# Pydantic takes a bool for a number, since it is an int; only these fields may have one.
_MAY_BE_BOOL = ("user_config", "debug", "docs", "expose_headers", "reconfigure_while_running", "insecure")
_NOT_SHOWN = ("tls",)
"""Fields whose value is no part of an error's text: a password may be in it."""


class ConfigError(ValueError):
    """An unknown field, or a value that a field cannot have."""


class _Options(BaseModel):
    """Base of the options: checked at construction and at assignment."""

    model_config = ConfigDict(
        validate_assignment=True, extra="forbid", arbitrary_types_allowed=True, coerce_numbers_to_str=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name not in _MAY_BE_BOOL:
            raise ValueError("must be a number, not a bool")
        return value

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(_one_sentence(type(self), error)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise ConfigError(_one_sentence(type(self), error)) from None


class BackendConfig(_Options):
    """How a backend runs. Fields can be changed later, without restarting replicas, by ``update_backend_config``.

    Attributes:
        num_replicas: processes that run the backend, 1 to 10,000.
        max_batch_size: most requests in one call of user code; more than 1 needs ``@accept_batch``. Default 1.
        batch_wait_timeout: seconds that the first request of a batch waits for others. Default 0: takes what is there.
        max_concurrent_batches: batches that an async batching backend may run at once.
        max_concurrent_queries: requests that a replica runs at once; default max(100, 2 x max_batch_size).
        max_queued_queries: requests that wait in one router for one endpoint; over it HTTP answers 503.
        target_latency_ms: in place of ``batch_wait_timeout``: milliseconds within which 99 of 100 requests should be
            done, waiting included; the replica learns what batches cost and chooses their size and wait. None for off.
        user_config: passed to the class's ``reconfigure`` when a replica starts and whenever it changes; None for none.
        experimental_graceful_shutdown_wait_loop_s: longest wait, in seconds, for routers to confirm that they no longer
            choose a replica that is to go.
        experimental_graceful_shutdown_timeout_s: longest time, in seconds, that such a replica may take to finish.
        health_check_period_s: seconds between two health checks of a replica: does it answer, does its event loop run,
            and does the class's ``check_health`` succeed, if there is one.
        health_check_timeout_s: seconds within which a health check should be done, ``check_health`` included.
        health_check_failures: health checks in a row that must fail before the replica is replaced.
        max_surge: during a rolling update, how many replicas beyond ``num_replicas`` there may be; None for as many
            again, all new ones at once.
        max_unavailable: during a rolling update, how many fewer than ``num_replicas`` may serve.
        rollout_watch_s: during a rolling update, seconds that a new replica must have served without dying or failing
            its health checks before an old one is stopped; 0 for none.
        http_methods: names of the class's methods that HTTP clients may choose, beside ``__call__``; ``"*"`` for every
            public one. Handles may choose any public method.
        reconfigure_while_running: call ``reconfigure`` at once, on a separate thread and concurrently with requests,
            instead of between them.
        max_websockets: WebSockets that a replica of an ASGI app holds open at once, apart from
            ``max_concurrent_queries``; over it HTTP answers 503.

    Raises:
        ValueError: an unknown field or a bad value.
    """

    num_replicas: Replicas = 1
    max_batch_size: PositiveInt | None = None
    batch_wait_timeout: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    max_concurrent_batches: PositiveInt = 1
    max_concurrent_queries: PositiveInt | None = None
    max_queued_queries: Count = 1000
    target_latency_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    user_config: Any = None
    experimental_graceful_shutdown_wait_loop_s: Seconds = Field(
        default=2.0,
        validation_alias=AliasChoices("experimental_graceful_shutdown_wait_loop_s", "graceful_shutdown_wait_loop_s"),
    )
    experimental_graceful_shutdown_timeout_s: Seconds = Field(
        default=20.0,
        validation_alias=AliasChoices("experimental_graceful_shutdown_timeout_s", "graceful_shutdown_timeout_s"),
    )
    health_check_period_s: Seconds = 2.0
    health_check_timeout_s: Seconds = 3.0
    health_check_failures: PositiveInt = 3
    max_surge: Count | None = None
    max_unavailable: Count = 0
    rollout_watch_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 3.0
    http_methods: list[str] | str = []
    reconfigure_while_running: StrictBool = False
    max_websockets: Count = 1000

    @field_validator("http_methods", mode="before")
    @classmethod
    def _method_names(cls, value: Any) -> list[str] | str:
        return check_http_methods(value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("graceful_shutdown_"):
            name = f"experimental_{name}"
        super().__setattr__(name, value)

    @property
    def graceful_shutdown_wait_loop_s(self) -> float:
        return self.experimental_graceful_shutdown_wait_loop_s

    @property
    def graceful_shutdown_timeout_s(self) -> float:
        return self.experimental_graceful_shutdown_timeout_s


_SPEC_NAMES = {
    "batch_wait_timeout": "batch_wait_timeout_s",
    "experimental_graceful_shutdown_wait_loop_s": "drain_confirm_s",
    "experimental_graceful_shutdown_timeout_s": "drain_timeout_s",
}


def config_changes(config: BackendConfig | Mapping[str, Any] | None, what: str) -> tuple[dict[str, Any], bytes | None]:
    """The fields that a user has set, under the names of :class:`BackendConfigSpec`, and the pickled ``user_config``.

    Args:
        what: the argument's name in the error's text.

    Raises:
        TypeError: neither a dict nor a BackendConfig, or a ``user_config`` that cannot be pickled.
        ValueError: an unknown field or a bad value, or a ``user_config`` that takes more than 64 MiB.
    """
    if config is None:
        return {}, None
    if isinstance(config, Mapping):
        config = BackendConfig(**{_string_key(key): value for key, value in config.items()})
    elif not isinstance(config, BackendConfig):
        raise TypeError(f"{what} must be a dict or a BackendConfig, not {config!r}")
    changes = {_SPEC_NAMES.get(name, name): getattr(config, name) for name in config.model_fields_set}
    user_config: bytes | None = None
    if changes.get("user_config") is not None:
        try:
            user_config = byvalue.dumps(changes["user_config"])
        except Exception as error:
            reason = explain(error, [("user_config", changes["user_config"])])
            raise TypeError(f"user_config cannot be pickled: {reason}") from error
        remedy = "put what is large into a file, and its path into the config"
        check_size("the pickled user_config takes", len(user_config), MAX_MESSAGE, remedy)
    if "user_config" in changes:
        changes["user_config"] = None  # returned pickled beside the changes, since only replicas may load it
    if "http_methods" in changes:
        changes["http_methods"] = tuple(changes["http_methods"])  # the str "*" becomes ("*",)
    return changes, user_config


def config_spec(config: BackendConfig | Mapping[str, Any] | None) -> BackendConfigSpec:
    """The stored form of a whole configuration. Raises the same as :func:`config_changes`."""
    changes, user_config = config_changes(config, "config")
    return BackendConfigSpec(**{**changes, "user_config": user_config})


def config_from_spec(spec: BackendConfigSpec) -> BackendConfig:
    """A stored configuration in the form that users see."""
    config = BackendConfig(
        num_replicas=spec.num_replicas,
        max_batch_size=spec.max_batch_size,
        batch_wait_timeout=spec.batch_wait_timeout_s,
        max_concurrent_batches=spec.max_concurrent_batches,
        max_concurrent_queries=spec.query_limit,
        max_queued_queries=spec.max_queued_queries,
        target_latency_ms=spec.target_latency_ms,
        user_config=pickle.loads(spec.user_config) if spec.user_config is not None else None,
        experimental_graceful_shutdown_wait_loop_s=spec.drain_confirm_s,
        experimental_graceful_shutdown_timeout_s=spec.drain_timeout_s,
        health_check_period_s=spec.health_check_period_s,
        health_check_timeout_s=spec.health_check_timeout_s,
        health_check_failures=spec.health_check_failures,
        max_surge=spec.max_surge,
        max_unavailable=spec.max_unavailable,
        rollout_watch_s=spec.rollout_watch_s,
        http_methods=list(spec.http_methods),
        reconfigure_while_running=spec.reconfigure_while_running,
        max_websockets=spec.max_websockets,
    )
    if spec.max_concurrent_queries is None:
        config.model_fields_set.discard("max_concurrent_queries")
    return config


class DeploymentMode(str, Enum):
    """Where HTTP servers run."""

    HeadOnly = "HeadOnly"
    EveryNode = "EveryNode"
    NoServer = "NoServer"


class HTTPOptions(_Options):
    """Options of an instance's HTTP servers.

    Attributes:
        host: address to listen on; None for no HTTP server.
        port: TCP port, 0 for any free one.
        middlewares: Starlette ``Middleware`` objects, each wrapping the app in list order (the last is outermost).
        location: a DeploymentMode or its name; None for no HTTP server, which reads as NoServer afterwards, as it does
            where there is no ``host``. On one machine EveryNode equals HeadOnly.
        debug: put tracebacks of user code into error bodies.
        request_timeout_s: a request's deadline in seconds, to the first byte of the answer.
        max_body_bytes: largest request body in bytes, at most 2 GiB less 16 MiB.
        processes: ingress processes per node that share the port.
        expose_headers: answers say which backend gave them, by which version of the traffic policy, and the request's
            id: ``x-serve-backend``, ``x-serve-policy-version``, ``x-serve-request-id``.
        access_log: share of the requests that get a line in the log, from 0 (none) to 1 (all).
        slow_request_s: requests that take at least so many seconds get a line that says where the time went; None for
            none.
        keep_alive_s: seconds for which a connection is kept on which no request comes. A balancer in front should give
            up its connections before this does.
        head_timeout_s: seconds within which a request's head must have come, and on a new connection its first byte.
        body_idle_timeout_s: longest pause, in seconds, in a request's body.
        body_min_bytes_per_s: how fast a body must come, on average, once it has taken 10 s; 0 for any rate.
        ws_max_message_bytes: largest message of a WebSocket's client, in bytes; a larger one closes it with 1009.
        tls: for HTTPS, paths of PEM files: ``{"cert": ..., "key": ..., "password": ..., "client_ca": ...}``; with
            ``client_ca`` clients must show a certificate of these authorities. Renewed files are used within 5 s.
        cors: the web pages that may use the server: the arguments of Starlette's ``CORSMiddleware``; None for none.
        allowed_hosts: names in the ``Host`` header, without port, ``*.name`` for all below one; others get 400.
        trusted_proxies: addresses and networks of proxies whose ``X-Forwarded-For`` and ``-Proto`` are believed.
        insecure: do not warn where an address other than loopback is open to others without keys.
        docs: whether ``/-/openapi.json`` and ``/-/docs`` say what the endpoints take.
        drain_delay_s: at the end of the instance, seconds for which requests are accepted on while ``/-/readyz`` says
            503 already, so that balancers in front have taken notice before the drain begins. Default 0.

    Raises:
        ValueError: an unknown field or a bad value.
    """

    host: str | None = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    middlewares: list[Any] = []
    location: DeploymentMode | None = DeploymentMode.HeadOnly
    debug: StrictBool = False
    request_timeout_s: Seconds = DEFAULT_REQUEST_TIMEOUT_S
    max_body_bytes: Annotated[int, Field(ge=0, le=MAX_BODY)] = DEFAULT_MAX_BODY
    processes: PositiveInt = 1
    expose_headers: StrictBool = True
    access_log: Annotated[float, Field(ge=0, le=1)] = 0.0
    slow_request_s: Seconds | None = None
    keep_alive_s: Seconds = DEFAULT_KEEP_ALIVE_S
    head_timeout_s: Seconds = DEFAULT_HEAD_TIMEOUT_S
    body_idle_timeout_s: Seconds = DEFAULT_BODY_IDLE_TIMEOUT_S
    body_min_bytes_per_s: Count = DEFAULT_BODY_MIN_BYTES_PER_S
    ws_max_message_bytes: Annotated[int, Field(ge=0, le=MAX_BODY)] = DEFAULT_MAX_MESSAGE
    tls: dict[str, Any] | None = None
    cors: dict[str, Any] | None = None
    allowed_hosts: list[str] = [ANY]
    trusted_proxies: list[str] = []
    insecure: StrictBool = False
    docs: StrictBool = True
    drain_delay_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    @field_validator("tls")
    @classmethod
    def _tls(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return check_tls(value)

    @field_validator("cors")
    @classmethod
    def _cors(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        cors_spec(value)
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: list[str]) -> list[str]:
        return list(check_hosts(value))

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, value: list[str]) -> list[str]:
        return list(check_proxies(value))

    @model_validator(mode="after")
    def _without_server(self) -> HTTPOptions:
        if self.host is None or self.location is None:
            vars(self)["location"] = DeploymentMode.NoServer  # an assignment would be validated, which ends here again
        return self

    @property
    def serves(self) -> bool:
        """Whether there is an HTTP server at all."""
        return self.host is not None and self.location not in (None, DeploymentMode.NoServer)


def parse_http_options(options: HTTPOptions | Mapping[str, Any] | None) -> HTTPOptions:
    """HTTP options from what the user gave.

    Raises:
        TypeError: neither a dict nor HTTPOptions.
        ValueError: an unknown key or a bad value.
    """
    if options is None:
        return HTTPOptions()
    if isinstance(options, HTTPOptions):
        return options
    if isinstance(options, Mapping):
        return HTTPOptions(**{_string_key(key): value for key, value in options.items()})
    raise TypeError(f"http_options must be a dict or HTTPOptions, not {options!r}")


def pack_middlewares(options: HTTPOptions) -> bytes:
    """The middlewares, pickled for the ingress; empty when there are none.

    Raises:
        TypeError: one is no Starlette ``Middleware``, or cannot be pickled.
        ValueError: they take more than 48 KiB.
    """
    if not options.middlewares:
        return b""
    packed = []
    for middleware in options.middlewares:
        cls, kwargs = getattr(middleware, "cls", None), getattr(middleware, "kwargs", None)
        if cls is None or kwargs is None:
            raise TypeError(f"a middleware must be a starlette.middleware.Middleware, not {middleware!r}")
        packed.append((cls, tuple(getattr(middleware, "args", ())), kwargs))
    try:
        data = byvalue.dumps(packed)
    except Exception as error:
        parts = [(f"middleware {index}", part) for index, part in enumerate(packed)]
        raise TypeError(f"the middlewares cannot be pickled: {explain(error, parts)}") from error
    check_size("the pickled middlewares take", len(data), MAX_MIDDLEWARES, "have them read what is large from a file")
    return data


def _string_key(key: Any) -> str:
    if not isinstance(key, str):
        raise ConfigError(f"option name {key!r} is not a str")
    return key


def _one_sentence(model: type[BaseModel], error: ValidationError) -> str:
    first = error.errors()[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return f"{model.__name__} has no field {field!r}{nearest(field, model.model_fields)}"
    problem = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    problem = problem[0].lower() + problem[1:]
    shown = "wrong" if field in _NOT_SHOWN else f"{first['input']!r}, but"
    return f"{field} of {model.__name__} is {shown}{':' if field in _NOT_SHOWN else ''} {problem}"
