"""Options of a backend's autoscaling, as users write them, with their validation."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, StrictBool, field_validator

from pointsman.config.options import MAX_REPLICAS, ConfigError, NotNegative, Options, Positive, Seconds, string_key
from pointsman.model.scaling import Autoscaling, ScalingPolicy

#: Fields of Ray Serve's class of this name that mean nothing here.
WITHOUT_EFFECT = (
    "metrics_interval_s",
    "smoothing_factor",
    "upscale_smoothing_factor",
    "downscale_smoothing_factor",
    "aggregation_function",
)
_BOUNDS = ("min_replicas", "max_replicas", "initial_replicas")


class AutoscalingConfig(Options):
    """How the number of a backend's replicas follows the calls for it: ``config={"autoscaling": ...}``, as this or as a
    dict of its fields. The demand of a backend is the number of calls that wait for it or run on it.

    Args:
        values: the fields below, by name.

    Attributes:
        min_replicas: fewest replicas, 0 to 10,000. Default 1.
        max_replicas: most replicas, at least 1 and ``min_replicas``. None: 100 on Ray; on one machine its CPUs, but at
            least 2.
        initial_replicas: replicas of a backend that is created. None: ``min_replicas``, but at least one, to try the
            constructor.
        target_ongoing_requests: calls that a replica shall have at a time, at most ``max_concurrent_queries``. None:
            0.7 of what it runs at once: of 1 where code is sync, of ``max_batch_size`` where it takes batches, else
            of ``max_concurrent_queries``.
        target_latency_ms: milliseconds within which 99 of 100 calls shall be answered, waiting included; of both
            targets the larger number of replicas wins. None for no such target.
        look_back_period_s: seconds over which demand is averaged. Default 30.
        upscaling_factor: part of a rise that is made at once, or a multiple of it. Default 1.
        downscaling_factor: the same of a fall. Default 1.
        upscale_delay_s: seconds for which more must be needed before replicas are added. Default 0.
        downscale_delay_s: seconds for which fewer must be needed before replicas are taken away. Default 300.
        downscale_to_zero_delay_s: the same before the last one goes; None for ``downscale_delay_s``.
        tolerance: share by which demand may differ from the target without a change, from 0 to below 1. Default 0.1.
        priority: where there is no room for all, backends of a higher one come first. Default 0.
        season_s: what was needed so many seconds before starts ahead of time, such as 86400 for a day. None for none.
        policy: ``"module:name"`` of a function of your own that says how many replicas are needed; None for the
            built-in rule.
        dry_run: decide and show, and change nothing.

    Fields of Ray Serve's class that mean nothing here are accepted with a DeprecationWarning.

    Raises:
        ValueError: an unknown field or a bad value.
    """

    min_replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] = 1
    max_replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)] | None = None
    initial_replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] | None = None
    target_ongoing_requests: Positive | None = None
    target_latency_ms: Positive | None = None
    look_back_period_s: Seconds = 30.0
    upscaling_factor: Positive = 1.0
    downscaling_factor: Positive = 1.0
    upscale_delay_s: NotNegative = 0.0
    downscale_delay_s: NotNegative = 300.0
    downscale_to_zero_delay_s: NotNegative | None = None
    tolerance: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.1
    priority: Annotated[int, Field(ge=-(2**31), lt=2**31)] = 0
    season_s: Seconds | None = None
    policy: Annotated[str, Field(min_length=1)] | None = None
    dry_run: StrictBool = False

    def __init__(self, **values: Any) -> None:
        for name in WITHOUT_EFFECT:
            if name in values:
                text = f"{name} of AutoscalingConfig has no effect here"
                warnings.warn(text, DeprecationWarning, stacklevel=_level_of_user())
                del values[name]
        super().__init__(**values)
        self._check_bounds()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _BOUNDS:
            changed = self.model_copy()
            Options.__setattr__(changed, name, value)
            changed._check_bounds()
        super().__setattr__(name, value)

    def _check_bounds(self) -> None:
        least, most, first = self.min_replicas, self.max_replicas, self.initial_replicas
        if most is not None and most < least:
            raise ConfigError(
                f"max_replicas of AutoscalingConfig is {most}, but must be at least min_replicas, {least}"
            )
        if first is not None and not least <= first <= (most if most is not None else MAX_REPLICAS):
            bounds = f"from min_replicas, {least}, to max_replicas" + (f", {most}" if most is not None else "")
            raise ConfigError(f"initial_replicas of AutoscalingConfig is {first}, but must be {bounds}")

    def spec(self) -> Autoscaling:
        """The stored form, with a policy that is found in no folder yet."""
        values = self.model_dump()
        policy = values.pop("policy")
        return Autoscaling(**values, policy=ScalingPolicy(policy) if policy is not None else None)

    @field_validator("policy", mode="before")
    @classmethod
    def _is_path(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, str):
            raise ValueError("should be the import path of a function, 'module:name'")
        return value

    @classmethod
    def of(cls, spec: Autoscaling) -> AutoscalingConfig:
        """A stored one in the form that users see."""
        values = {name: getattr(spec, name) for name in cls.model_fields if name != "policy"}
        return cls(**values, policy=spec.policy.path if spec.policy is not None else None)


def _level_of_user() -> int:
    """The ``stacklevel`` that makes a warning one of the user's line: Python shows a DeprecationWarning of other
    packages' lines to nobody."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in (
        "pointsman",
        "pydantic",
    ):
        level, frame = level + 1, frame.f_back
    return level


def parse_autoscaling(value: Any) -> AutoscalingConfig | None:
    """Autoscaling from what the user gave.

    Raises:
        TypeError: neither a dict nor an AutoscalingConfig, nor None.
        ValueError: an unknown field or a bad value.
    """
    if value is None or isinstance(value, AutoscalingConfig):
        return value
    if not isinstance(value, Mapping):
        raise TypeError(f"autoscaling must be a dict or an AutoscalingConfig, not {value!r}")
    return AutoscalingConfig(**{string_key(key): field for key, field in value.items()})
