"""Options of an instance's HTTP servers, as users write them, with their validation."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any

from pydantic import Field, StrictBool, field_validator, model_validator

from pointsman.arguments import DEFAULT_REQUEST_TIMEOUT_S
from pointsman.config.options import Count, NotNegative, Options, PositiveInt, Seconds, string_key
from pointsman.limits import MAX_BODY, MAX_MIDDLEWARES, check_size
from pointsman.lock.hosts import ANY, check_hosts, check_proxies
from pointsman.lock.origins import cors_spec
from pointsman.lock.tls import check_tls
from pointsman.usercode import byvalue
from pointsman.usercode.culprit import explain

DEFAULT_MAX_BODY = 64 * 1024 * 1024
DEFAULT_KEEP_ALIVE_S = 60.0
"""Seconds; see ``keep_alive_s`` of :class:`HTTPOptions`."""
DEFAULT_HEAD_TIMEOUT_S = 10.0
"""Seconds; see ``head_timeout_s`` of :class:`HTTPOptions`."""
DEFAULT_BODY_IDLE_TIMEOUT_S = 30.0
"""Seconds; see ``body_idle_timeout_s`` of :class:`HTTPOptions`."""
DEFAULT_BODY_MIN_BYTES_PER_S = 1024
"""Bytes per second; see ``body_min_bytes_per_s`` of :class:`HTTPOptions`."""
DEFAULT_MAX_MESSAGE = 16 * 1024 * 1024


class DeploymentMode(str, Enum):
    """Where HTTP servers run.

    Attributes:
        HeadOnly: one node: the one on which the instance was started.
        EveryNode: each node of a Ray cluster.
        NoServer: none; only handles call.
    """

    HeadOnly = "HeadOnly"
    EveryNode = "EveryNode"
    NoServer = "NoServer"


class HTTPOptions(Options):
    """Options of an instance's HTTP servers.

    Args:
        values: the fields below, by name.

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
    drain_delay_s: NotNegative = 0.0

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
        return HTTPOptions(**{string_key(key): value for key, value in options.items()})
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
