"""Answers questions about decorated callables: is a call async, is there an argument, is there a batch marker.

The outermost callable decides, since it is the one that is called: a ``def`` around an ``async def`` is sync. Only the
batch marker and the parameters behind ``*args`` are looked for in the wrapped callables too.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from pointsman.request import bucket_of, is_marked

CALL = "__call__"
#: Bounds the search for wrapped callables: an object with a ``__getattr__`` may lead to ever new ones.
MAX_LAYERS = 100


def is_async(function: Any) -> bool:
    """Whether a call runs ``async def`` code. Sees through methods, partials and objects with an ``async __call__``."""
    for _ in range(MAX_LAYERS):
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            return True
        function = _next_callable(function)
        if function is None:
            return False
    return False


def wraps_async(function: Any) -> bool:
    """Whether a sync callable wraps an ``async def``, as ``functools.wraps`` records it."""
    return not is_async(function) and any(map(is_async, _layers(function)))


def is_batching(function: Any) -> bool:
    """Whether a callable, or one that it wraps, carries the batch marker."""
    return any(map(is_marked, _layers(function)))


def bucket_by(function: Any) -> Callable[[Any], Hashable] | None:
    """The ``bucket_by`` of the batch marker on a callable, or on one that it wraps."""
    return next((found for found in map(bucket_of, _layers(function)) if found is not None), None)


def is_decorated(value: Any) -> bool:
    """Whether a value is an object that a decorator has put in place of a function, as ``__wrapped__`` shows."""
    if not callable(value) or isinstance(value, (type, types.MethodType, functools.partial)):
        return False
    wrapped = getattr(value, "__wrapped__", None)
    return isinstance(wrapped, types.FunctionType) or (wrapped is not None and is_decorated(wrapped))


def takes_argument(function: Callable[..., Any], *, bound: bool = False) -> bool:
    """Whether a callable takes a positional argument.

    A decorator's own parameters count. If they are ``*args``, those of the wrapped callable decide.

    Args:
        bound: leave out the first parameter, ``self``.

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
                return True  # some C callables have no signature; they get the request
        else:
            if bound and parameters and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
                del parameters[0]
            positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
            rest = any(p.kind is p.VAR_POSITIONAL for p in parameters)
            if positional or not rest or inner is None:
                if not layer:  # a wrapped callable may require more, which its decorator adds
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


def _next_callable(function: Any) -> Any:
    """The callable that a call runs next; None if the callable is plain code, or is of an unknown kind."""
    if isinstance(function, (types.MethodType, staticmethod, classmethod)):
        return function.__func__
    if isinstance(function, (functools.partial, functools.partialmethod)):
        return function.func
    if isinstance(function, types.FunctionType):
        # A partialmethod that is read from its class is a function with this attribute; the name depends on Python.
        return getattr(function, "__partialmethod__", None) or getattr(function, "_partialmethod", None)
    call = None if isinstance(function, type) else getattr(type(function), CALL, None)
    return None if isinstance(call, types.WrapperDescriptorType) else call


def _layers(function: Any) -> Iterator[Any]:
    """A callable and all that it calls or wraps, from the outside in."""
    waiting = [function]
    for _ in range(MAX_LAYERS):
        if not waiting:
            return
        function = waiting.pop()
        yield function
        inner = (_next_callable(function), getattr(function, "__wrapped__", None))
        waiting += [layer for layer in inner if layer is not None]
