"""What all options have in common: checks at construction and at assignment, and errors of one sentence."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from pointsman.arguments import nearest

#: Messages have no longer numbers.
PositiveInt = Annotated[int, Field(ge=1, lt=2**63)]
#: The controller places replicas one by one, also those that request nothing, so that their number needs a limit.
MAX_REPLICAS = 10_000
Replicas = Annotated[int, Field(ge=1, le=MAX_REPLICAS)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Positive

# Pydantic takes a bool for a number, since it is an int; only these fields may have one.
_MAY_BE_BOOL = (
    "user_config",
    "debug",
    "docs",
    "expose_headers",
    "reconfigure_while_running",
    "insecure",
    "autoscaling",
    "dry_run",
    "policy",
    "plain",
    "read_only",
)
_NOT_SHOWN = ("tls",)
"""Fields whose value is no part of an error's text: a password may be in it."""


class ConfigError(ValueError):
    """An unknown field, or a value that a field cannot have."""


class Options(BaseModel):
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
            raise ConfigError(one_sentence(type(self), error)) from None

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise ConfigError(one_sentence(type(self), error)) from None

    @classmethod
    def place_of(cls, field: str) -> str:
        """The end of the sentence that there is no such field: where it belongs. Empty if that is not known."""
        return ""


def string_key(key: Any) -> str:
    """A name of an option. Raises ConfigError if it is no str."""
    if not isinstance(key, str):
        raise ConfigError(f"option name {key!r} is not a str")
    return key


def one_sentence(model: type[Options], error: ValidationError) -> str:
    """The first of the mistakes, as a sentence that names field and value."""
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return str(cause)  # it says all of this already
    field = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return f"{model.__name__} has no field {field!r}{model.place_of(field) or nearest(field, model.model_fields)}"
    problem = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
    problem = problem[0].lower() + problem[1:]
    shown = "wrong" if field in _NOT_SHOWN else f"{first['input']!r}, but"
    return f"{field} of {model.__name__} is {shown}{':' if field in _NOT_SHOWN else ''} {problem}"
