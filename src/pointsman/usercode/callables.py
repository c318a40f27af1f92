"""Callables as people decorate them: is a call of one async, does it take an argument, does it carry the batch marker.

The outermost callable decides, since it is what is called: a ``def`` around an ``async def`` is sync. Only what it
hides is looked for within: the marker, and the parameters behind ``*args``.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from pointsman.request import bucket_of, is_marked

CALL = "__call__"
MAX_LAYERS = 100
"""Objects that make up attributes as they are asked for could lead on without end."""


def is_async(function: Any) -> bool:
    """Whether a call is run by ``async def`` code, through methods, partials and objects with an ``async __call__``."""
    for _ in range(MAX_LAYERS):
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            return True
        function = _what_runs(function)
        if function is None:
            return False
    return False


def wraps_async(function: Any) -> bool:
    """Whether sync code stands around an ``async def`` and names it, as ``functools.wraps`` does."""
    return not is_async(function) and any(map(is_async, _layers(function)))


def is_batching(function: Any) -> bool:
    """Whether the batch marker stands on a callable, or on what it wraps."""
    return any(map(is_marked, _layers(function)))


def bucket_by(function: Any) -> Callable[[Any], Hashable] | None:
    """The ``bucket_by`` with which a callable, or what it wraps, was marked."""
    return next((found for found in map(bucket_of, _layers(function)) if found is not None), None)


def is_decorated(value: Any) -> bool:
    """Whether a value is no function, but stands for one by what a decorator has noted on it."""
    if not callable(value) or isinstance(value, (type, types.MethodType, functools.partial)):
        return False
    wrapped = getattr(value, "__wrapped__", None)
    return isinstance(wrapped, types.FunctionType) or (wrapped is not None and is_decorated(wrapped))


def takes_argument(function: Callable[..., Any], *, bound: bool = False) -> bool:
    """Whether a callable takes a positional argument; ``bound`` leaves out ``self``.

    A decorator's own parameters count. Where they are ``*args``, those of what it wraps tell whether it wants one.

    Raises:
        TypeError: it requires more than one, or a keyword argument.
    """
    code: Any = function
    if isinstance(code, types.MethodType):
        code, bound = code.__func__, True
    for layer in range(MAX_LAYERS):
        inner = getattr(code, "__wrapped__", None)
        try:
            parameters = list(inspect.signature(code, follow_wrapped=False).parameters.values())
        except (TypeError, ValueError):
            if inner is None:
                return True  # no signature to be had (some C callables): it gets the request
        else:
            if bound and parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
                del parameters[0]
            positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
            rest = any(p.kind is p.VAR_POSITIONAL for p in parameters)
            if positional or not rest or inner is None:
                if not layer:  # what a decorator around it adds is its own business
                    _check_required(function, positional, parameters)
                return bool(positional) or rest
        code = inner
    return True


def _check_required(function: Any, positional: list[inspect.Parameter], parameters: list[inspect.Parameter]) -> None:
    required = [p.name for p in positional if p.default is p.empty]
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if len(required) > 1 or keywords:
        names = ", ".join(required[1:] + keywords)
        name = getattr(function, "__qualname__", repr(function))
        raise TypeError(f"a backend is called with one request, and {name} also requires: {names}")


def _what_runs(function: Any) -> Any:
    """What a call hands on to at once; None at plain code, and where nobody can tell."""
    if isinstance(function, (types.MethodType, staticmethod, classmethod)):
        return function.__func__
    if isinstance(function, (functools.partial, functools.partialmethod)):
        return function.func
    if isinstance(function, types.FunctionType):
        # What a class shows of a partialmethod.
        return getattr(function, "__partialmethod__", None) or getattr(function, "_partialmethod", None)
    call = None if isinstance(function, type) else getattr(type(function), CALL, None)
    return None if isinstance(call, types.WrapperDescriptorType) else call


def _layers(function: Any) -> Iterator[Any]:
    """A callable and all that it leads to, from the outermost inwards."""
    waiting = [function]
    for _ in range(MAX_LAYERS):
        if not waiting:
            return
        function = waiting.pop()
        yield function
        inner = (_what_runs(function), getattr(function, "__wrapped__", None))
        waiting += [layer for layer in inner if layer is not None]
