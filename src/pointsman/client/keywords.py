"""Errors for keyword arguments that an operation does not have: they say where the argument belongs.

This is a decorator, and not ``**kwargs`` in the operations themselves, so that type checkers still refuse such calls.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pointsman.arguments import nearest
from pointsman.usercode.packing import shown

P = ParamSpec("P")
R = TypeVar("R")

_OF_ENDPOINTS = frozenset(("route", "methods", "idempotent", "shard_key", "request_timeout_s", "max_body_bytes"))


def explains_keywords(operation: Callable[P, R]) -> Callable[P, R]:
    """Decorate an operation so that its ``TypeError`` for an unknown keyword argument says where that belongs."""
    known = [name for name in inspect.signature(operation).parameters if name != "self"]

    @functools.wraps(operation)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name, value in kwargs.items():
            if name not in known:
                raise TypeError(_hint(operation.__name__, known, name, value))
        return operation(*args, **kwargs)

    return checked


def _hint(operation: str, known: list[str], name: str, value: object) -> str:
    # Imported late: replicas import this module as well, and their environment need not have what these need.
    from pointsman import actor_options, ported

    config = "config" if "config" in known else "config_options"
    if name in _fields():
        given = f"{config}={{{name!r}: {shown(value)}}}"
        return f"{name} belongs into {config}: {operation}(..., {given})"
    if name in actor_options.KNOWN and "ray_actor_options" in known:
        given = f"ray_actor_options={{{name!r}: {shown(value)}}}"
        return f"{name} belongs into ray_actor_options: {operation}(..., {given})"
    if name in _OF_ENDPOINTS:
        return f"{operation}() has no {name}; give it to create_endpoint(), or use deploy(), which does both"
    text = f"{operation}() has no keyword argument {name!r}{ported.of_config(name) or nearest(name, known)}"
    if "config" in known:
        text += "; arguments of the class's constructor are given by position"
    return text


def _fields() -> set[str]:
    """Names that a config takes, aliases included."""
    from pydantic import AliasChoices

    from pointsman.config import BackendConfig

    names = set(BackendConfig.model_fields)
    for field in BackendConfig.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            names.update(str(choice) for choice in field.validation_alias.choices)
    return names
