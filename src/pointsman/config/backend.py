"""The configuration of backends, as users write it, with its validation; and how it is stored."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import AliasChoices, Field, StrictBool, field_validator

from pointsman.config.options import (
    ConfigError,
    Count,
    NotNegative,
    Options,
    Positive,
    PositiveInt,
    Replicas,
    Seconds,
    string_key,
)
from pointsman.config.scaling import AutoscalingConfig, parse_autoscaling
from pointsman.limits import MAX_MESSAGE, check_size
from pointsman.model import BackendConfigSpec
from pointsman.ported import of_config
from pointsman.usercode import byvalue
from pointsman.usercode.culprit import explain
from pointsman.usercode.packing import check_http_methods

AUTO: Literal["auto"] = "auto"
"""``num_replicas`` of a backend that is autoscaled."""


class BackendConfig(Options):
    """How a backend runs. Fields can be changed later, without restarting replicas, by ``update_backend_config``.

    Args:
        values: the fields below, by name.

    Attributes:
        num_replicas: processes that run the backend, 1 to 10,000; or ``"auto"``: as many as the calls need, which is
            ``autoscaling`` with its defaults.
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
        autoscaling: how the number of replicas follows the calls: an :class:`AutoscalingConfig` or a dict of its
            fields; None for a fixed number. A new one replaces the whole of the former. ``autoscaling_config`` is the
            same.
        idle_timeout_s: seconds without a call after which all replicas are unloaded, until a call comes; None for
            never.

    Raises:
        ValueError: an unknown field or a bad value.
    """

    num_replicas: Replicas | Literal["auto"] = 1
    max_batch_size: PositiveInt | None = None
    batch_wait_timeout: NotNegative = 0.0
    max_concurrent_batches: PositiveInt = 1
    max_concurrent_queries: PositiveInt | None = None
    max_queued_queries: Count = 1000
    target_latency_ms: Positive | None = None
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
    rollout_watch_s: NotNegative = 3.0
    http_methods: list[str] | str = []
    reconfigure_while_running: StrictBool = False
    max_websockets: Count = 1000
    autoscaling: AutoscalingConfig | None = Field(
        default=None, validation_alias=AliasChoices("autoscaling", "autoscaling_config")
    )
    idle_timeout_s: Seconds | None = None

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        given = self.model_fields_set
        if self.num_replicas == AUTO and self.autoscaling is None:
            if "autoscaling" in given:
                raise ConfigError("num_replicas of BackendConfig is 'auto', but autoscaling is None; set one of them")
            self._set_autoscaling(AutoscalingConfig())
        elif self.autoscaling is not None:
            if "num_replicas" in given and self.num_replicas != AUTO:
                number = f"num_replicas of BackendConfig is {self.num_replicas}"
                raise ConfigError(f"{number}, but with autoscaling it must be 'auto', or left out")
            self._set_autoscaling(self.autoscaling)

    @classmethod
    def place_of(cls, field: str) -> str:
        return "; it is a field of 'autoscaling'" if field in AutoscalingConfig.model_fields else of_config(field)

    @field_validator("num_replicas", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        if isinstance(value, str) and value != AUTO and not value.strip().isdecimal():
            raise ValueError("should be a whole number or 'auto'")
        return value

    @field_validator("autoscaling", mode="before")
    @classmethod
    def _parsed(cls, value: Any) -> AutoscalingConfig | None:
        return parse_autoscaling(value)

    @field_validator("http_methods", mode="before")
    @classmethod
    def _method_names(cls, value: Any) -> list[str] | str:
        return check_http_methods(value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("graceful_shutdown_"):
            name = f"experimental_{name}"
        if name == "autoscaling_config":
            name = "autoscaling"
        if name == "num_replicas" and value != AUTO and self.autoscaling is not None:
            raise ConfigError(
                f"num_replicas of BackendConfig is {value!r}, but autoscaling is on; set that to None first"
            )
        super().__setattr__(name, value)
        if name == "num_replicas" and value == AUTO:
            self._set_autoscaling(self.autoscaling or AutoscalingConfig())
        elif name == "autoscaling":
            self._set_autoscaling(self.autoscaling)

    def _set_autoscaling(self, autoscaling: AutoscalingConfig | None) -> None:
        """Set it, and ``num_replicas`` with it: each of the two says what the other does."""
        vars(self)["autoscaling"] = autoscaling  # an assignment would be validated, which ends here again
        self.model_fields_set.add("autoscaling")
        if autoscaling is not None:
            vars(self)["num_replicas"] = AUTO
            self.model_fields_set.add("num_replicas")
        elif self.num_replicas == AUTO:
            vars(self)["num_replicas"] = 1
            self.model_fields_set.discard("num_replicas")

    @property
    def autoscaling_config(self) -> AutoscalingConfig | None:
        """The same as ``autoscaling``, under the name that Ray Serve 2.x uses."""
        return self.autoscaling

    @property
    def graceful_shutdown_wait_loop_s(self) -> float:
        """The same as ``experimental_graceful_shutdown_wait_loop_s``, in seconds."""
        return self.experimental_graceful_shutdown_wait_loop_s

    @property
    def graceful_shutdown_timeout_s(self) -> float:
        """The same as ``experimental_graceful_shutdown_timeout_s``, in seconds."""
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
        config = BackendConfig(**{string_key(key): value for key, value in config.items()})
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
    if changes.get("autoscaling") is not None:
        changes["autoscaling"] = changes["autoscaling"].spec()
        changes["num_replicas"] = 1  # means nothing then, and is the same for all
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
        num_replicas=spec.num_replicas if spec.autoscaling is None else AUTO,
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
        autoscaling=AutoscalingConfig.of(spec.autoscaling) if spec.autoscaling is not None else None,
        idle_timeout_s=spec.idle_timeout_s,
    )
    if spec.max_concurrent_queries is None:
        config.model_fields_set.discard("max_concurrent_queries")
    return config
