"""Functions of user code that load a model by its id: the decorator, and what it makes of a function.

class Digits:
    @serve.multiplexed(max_models=10)
    def model(self, model_id): return load(f"/models/{model_id}")

    def __call__(self, request):
        return self.model(serve.get_multiplexed_model_id()).predict(request.json())
"""

from __future__ import annotations

import functools
import inspect
import operator
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, overload

from pointsman.multiplexing.host import Host

L = TypeVar("L", bound=Callable[..., Any])

DEFAULT_MODELS = 3
UNLIMITED = -1


_making = threading.Lock()


class _Watch:
    """Who wants to know of the models of functions that belong to no object: the replica that this process is."""

    any_loader = False
    hosts: weakref.WeakSet[Host] = weakref.WeakSet()
    by: Callable[[Host], None] | None = None

    @classmethod
    def found(cls, host: Host) -> None:
        cls.hosts.add(host)
        if cls.by is not None:
            cls.by(host)


def any_loader() -> bool:
    """Whether this process has a loader."""
    return _Watch.any_loader


def watch_functions(by: Callable[[Host], None] | None) -> None:
    """Call ``by``, on any thread, with what has been loaded by each loader that is no method, now and later; None: call
    nobody any more."""
    _Watch.by = by
    if by is not None:
        for host in list(_Watch.hosts):
            if not host.is_closed:
                by(host)


HOSTS = "__serve_models__"
"""Attribute of objects whose class has a loader."""


class BoundLoader:
    """The loader of an object.

    Args:
        function: the user's.
        host: what it has loaded for the object.
    """

    __slots__ = ("__name__", "__wrapped__", "host")

    def __init__(self, function: Callable[..., Any], host: Host) -> None:
        self.__wrapped__ = function
        self.__name__ = function.__name__
        self.host = host

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model, or where an event loop runs, an awaitable of it."""
        # hot: each call that uses its model passes here
        if kwargs or len(args) != 1 or type(args[0]) is not str or not args[0]:
            return self.host.call(_checked(self.__wrapped__, args, kwargs, bound=True))
        return self.host.call(args[0])


class Bound(dict["Loader", BoundLoader]):
    """What has been loaded for an object, by loader. A copy of the object begins with nothing."""

    def __reduce__(self) -> Any:
        return Bound, ()


class Loader:
    """A function or method that loads a model by its id, made by :func:`multiplexed`.

    Attributes:
        function: the user's.
        max_models: how many models may be loaded at a time; UNLIMITED for any number.
        max_bytes: what all of them may take; None for any size.
        size_of, unload: functions of the user's, None if there is none.
        is_method: whether the function has the parameter ``self``.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        max_models: int,
        max_bytes: int | None,
        size_of: Callable[[str], Any] | None,
        unload: Callable[[Any], Any] | None,
    ) -> None:
        self.function = function
        self.max_models = max_models
        self.max_bytes = max_bytes
        self.size_of = size_of
        self.unload = unload
        self.is_method = _is_method(function)
        self._host: Host | None = None
        _Watch.any_loader = True
        functools.update_wrapper(self, function)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else self._bound(instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model, or where an event loop runs, an awaitable of it."""
        if self.is_method:
            instance, model_id = self._two(*args, **kwargs)
            return self._bound(instance)(model_id)
        return self._own_host().call(_checked(self.function, args, kwargs))

    def _two(self, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        return inspect.signature(self.function).bind(*args, **kwargs).args

    def _bound(self, instance: Any) -> BoundLoader:
        # hot: calls read the loader of their object
        try:
            return instance.__dict__[HOSTS][self]  # type: ignore[no-any-return]
        except (AttributeError, KeyError):
            return self._bind(instance)

    def _bind(self, instance: Any) -> BoundLoader:
        try:
            bound = vars(instance).setdefault(HOSTS, Bound())
        except TypeError:
            raise TypeError(
                f"an object of class {type(instance).__name__} has no __dict__, which a class with a loader needs"
            ) from None
        host = self._make_host(weakref.ref(instance))
        return bound.setdefault(self, BoundLoader(self.function, host))  # type: ignore[no-any-return]

    def host_of(self, instance: Any) -> Host:
        """What has been loaded for an object of the class that has this loader."""
        return self._bound(instance).host

    def _own_host(self) -> Host:
        host = self._host
        if host is None or host.is_closed:  # that of a replica in this process that has ended
            with _making:
                host = self._host
                if host is None or host.is_closed:
                    self._host = host = self._make_host(None)
                    _Watch.found(host)
        return host

    def _make_host(self, instance: weakref.ref[Any] | None) -> Host:
        function = self.function

        def load(model_id: str) -> Any:
            if instance is None:
                return function(model_id)
            owner = instance()
            if owner is None:
                raise ReferenceError(
                    f"the object whose {function.__qualname__} this is has gone; keep it in a variable"
                )
            return function(owner, model_id)

        limit = None if self.max_models == UNLIMITED else self.max_models
        return Host(load, max_models=limit, max_bytes=self.max_bytes, size_of=self.size_of, unload=self.unload)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_host": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _Watch.any_loader = True

    def __repr__(self) -> str:
        return f"<loader {self.function.__qualname__}>"


@overload
def multiplexed(function: L, /) -> L: ...


@overload
def multiplexed(
    *,
    max_models: int = DEFAULT_MODELS,
    max_bytes: int | None = None,
    size_of: Callable[[str], Any] | None = None,
    unload: Callable[[Any], Any] | None = None,
    max_num_models_per_replica: int = DEFAULT_MODELS,
) -> Callable[[L], L]: ...


def multiplexed(
    function: Any = None,
    /,
    *,
    max_models: Any = None,
    max_bytes: Any = None,
    size_of: Any = None,
    unload: Any = None,
    max_num_models_per_replica: Any = None,
) -> Any:
    """Mark a function or method, ``def`` or ``async def``, as one that loads a model by its id. What it has returned is
    kept for later calls with that id.

    Called where an event loop runs it gives an awaitable of the model, elsewhere the model. In a class the model that a
    request names is there before the request's method is called; meanwhile other requests run. The function itself runs
    on a thread of its own, an ``async def`` in an event loop of its own.

    Args:
        function: the method or function that loads a model; None where only options are given.
        max_models: how many models one replica may have at a time, those being loaded included; -1 for any number. The
            one that was not used for the longest time makes room for another; one in use by a request never does.
        max_bytes: what they may take together, by ``size_of``; None for any size.
        size_of: function of an id that gives the size of its model in bytes. It is asked before the model is loaded.
        unload: function of a model, called once when the model has made room, or its replica ends.
        max_num_models_per_replica: Ray Serve's name for ``max_models``.

    Returns:
        The function, which keeps what it has loaded; with options only, a decorator.

    Raises:
        TypeError: an argument is of the wrong type, or the function does not take exactly one id.
        ValueError: a limit is out of range.
    """
    if max_models is not None and max_num_models_per_replica is not None:
        raise TypeError("max_models and max_num_models_per_replica are two names for one number; give one of them")
    limit = _limit(max_models, max_num_models_per_replica)
    if max_bytes is not None:
        max_bytes = _whole(max_bytes, "max_bytes")
        if max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, not {max_bytes}")
        if size_of is None:
            raise TypeError("max_bytes needs size_of, a function of an id that gives the size of its model in bytes")
    for name, value in (("size_of", size_of), ("unload", unload)):
        if value is not None and not callable(value):
            raise TypeError(f"{name} must be a function, not {value!r}")

    def mark(marked: Callable[..., Any]) -> Loader:
        _check_function(marked)
        return Loader(marked, max_models=limit, max_bytes=max_bytes, size_of=size_of, unload=unload)

    return mark if function is None else mark(function)


def _limit(max_models: Any, other: Any) -> int:
    name, given = ("max_models", max_models) if other is None else ("max_num_models_per_replica", other)
    if given is None:
        return DEFAULT_MODELS
    limit = _whole(given, name)
    if limit != UNLIMITED and limit < 1:
        raise ValueError(f"{name} must be at least 1, or {UNLIMITED} for any number, not {limit}")
    return limit


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {value!r}") from None


def _check_function(function: Any) -> None:
    if not isinstance(function, types.FunctionType) or inspect.isgeneratorfunction(function):
        raise TypeError(f"serve.multiplexed marks a def or async def that loads a model, not {function!r}")
    if inspect.isasyncgenfunction(function):
        raise TypeError(f"serve.multiplexed marks a def or async def that loads a model, not {function!r}")
    parameters = list(inspect.signature(function).parameters.values())
    wanted = ["self", "model_id"] if _is_method(function) else ["model_id"]
    fits = all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    if not fits or len(parameters) != len(wanted):
        raise TypeError(
            f"a loader takes one id, such as {function.__name__}({', '.join(wanted)}),"
            f" not {function.__name__}{inspect.signature(function)}"
        )


def _checked(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], bound: bool = False) -> str:
    """The id among the arguments of a loader."""
    if kwargs or len(args) != 1:
        args = inspect.signature(function).bind(*((None,) if bound else ()), *args, **kwargs).args[-1:]
    model_id = args[0]
    if not isinstance(model_id, str):
        raise TypeError(f"the id of a model is a str, not {model_id!r}")
    if not model_id:
        raise ValueError("the id of a model is not empty; this request may have named no model")
    return model_id


def _is_method(function: Callable[..., Any]) -> bool:
    """Whether a function stands in the body of a class."""
    scope = function.__qualname__.rpartition(".")[0]
    return bool(scope) and not scope.endswith("<locals>")


def loaders_of(cls: type) -> dict[str, Loader]:
    """The loaders of a class, its bases' included, by name."""
    found: dict[str, Loader] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Loader):
                found[name] = value
            else:
                found.pop(name, None)
    return found


def loader_of(cls: type) -> Loader | None:
    """The loader of a class; None if it has none.

    Raises:
        ValueError: it has two.
    """
    loaders = loaders_of(cls)
    if len(loaders) > 1:
        raise ValueError(f"class {cls.__name__} has {len(loaders)} loaders, {', '.join(loaders)}; it can have one")
    return next(iter(loaders.values()), None)
