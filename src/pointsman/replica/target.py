"""User code: the function or class of a backend, loaded and called.

Knows how user code looks (markers, methods, async or not, with or without an argument) and nothing of the wire.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import itertools
import pickle
import types
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from pointsman.exceptions import AnswerError, CallRejectedError, UserCodeError
from pointsman.incoming import Incoming
from pointsman.model import ALL_METHODS, TargetTraits
from pointsman.request import Request, async_request
from pointsman.usercode.callables import bucket_by, is_async, is_batching, takes_argument, wraps_async
from pointsman.usercode.packing import CLOSED_METHODS, DEFAULT_METHOD, check_callable, is_hook, methods_of, unpack_code


class Method(NamedTuple):
    """One way into user code."""

    name: str
    function: Callable[..., Any]
    is_async: bool
    batches: bool
    takes_request: bool
    wraps_async: bool = False
    """It is a ``def`` around an ``async def``."""
    bucket_by: Callable[[Any], Hashable] | None = None
    """Of a batching method: requests share a batch only when this gives the same for them."""

    def request(self, incoming: Incoming) -> Any:
        """The request in the form that this method wants."""
        if self.is_async:
            return async_request(incoming)
        return WrappedRequest(incoming) if self.wraps_async else Request(incoming)

    def bucket(self, request: Request) -> Hashable:
        """What ``bucket_by`` gives for a request.

        Raises:
            TypeError: a value that need not be hashed and compared in a harmless way.
            Exception: whatever user code raises.
        """
        assert self.bucket_by is not None
        value = self.bucket_by(request)
        if not _is_plain(value):
            kind = type(value).__name__
            raise TypeError(f"bucket_by must give a str, int, float, bool, bytes, None or tuple of these, not {kind}")
        return value

    def call(self, request: Any) -> Any:
        """Call user code with a request, or a list of them when it batches."""
        return self.function(request) if self.takes_request else self.function()


NO_METHOD = Method(DEFAULT_METHOD, lambda: None, is_async=False, batches=False, takes_request=False)
"""Stands for the ``__call__`` that a class has not; it is never called."""


def _is_plain(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return type(value) in (str, int, float, bool, bytes, type(None))


class Target:
    """A backend's function or class.

    Args:
        code: blob made by :func:`pointsman.usercode.pack_code`.
        traits: what the client saw before shipping.
    """

    def __init__(self, code: bytes, traits: TargetTraits) -> None:
        self._traits = traits
        self._function_or_class, self._init_args = unpack_code(code)
        self._object: Any = None
        self._methods: dict[str, Method] = {}

    def construct(self) -> None:
        """Run the constructor; for a function there is nothing to do. Raises what user code raises.

        Raises:
            TypeError: what it has made cannot be called. Found behind the constructor, whose own error comes first.
        """
        if self._traits.is_class:
            self._object = self._function_or_class(*self._init_args)
            if not callable(getattr(self._object, DEFAULT_METHOD, None)):
                check_callable(type(self._object))

    def reconfigure(self, user_config: bytes) -> Any:
        """Call ``reconfigure``; the result is awaitable when the method is ``async def``."""
        return self._object.reconfigure(pickle.loads(user_config))

    @property
    def health_check(self) -> Callable[[], Any] | None:
        """The class's ``check_health``, where it has one; it may be ``async def``."""
        return self._own("check_health")

    @property
    def close(self) -> Callable[[], Any] | None:
        """The class's ``close``, where it has one; it may be ``async def``."""
        # Of the class: one that hands on every other name to a model of its own does not mean that model's.
        return self._own("close") if is_hook(getattr(type(self._object), "close", None)) else None

    def let_go(self) -> None:
        """Forget all of user code, which ends what nobody else holds. The target is of no use any more."""
        self._object = self._function_or_class = None
        self._init_args = ()
        self._methods.clear()
        gc.unfreeze()  # what a collection does not look at it cannot end either
        gc.collect()

    def check_open_to_http(self, name: str, http_methods: tuple[str, ...]) -> None:
        """Whether a call that came over HTTP may name this method.

        Raises:
            CallRejectedError: it may not, whether there is such a method or not.
        """
        named = name in http_methods or name == DEFAULT_METHOD
        # Of the class: what an object merely holds, such as a model or a client, is no method.
        every = http_methods == (ALL_METHODS,) and name in methods_of(type(self._object))
        if self._traits.is_class and not named and not every:
            raise CallRejectedError(f"method {name!r} is not among the http_methods of this backend")

    def _own(self, name: str) -> Callable[[], Any] | None:
        method = getattr(self._object, name, None) if self._traits.is_class else None
        return method if callable(method) else None

    def method(self, name: str) -> Method:
        """The method that a call names; the empty name is ``__call__``.

        Raises:
            CallRejectedError: there is no such method, or it is not open to callers.
            AnswerError: no method is named, and the class has no ``__call__``.
        """
        method = self._methods.get(name)
        if method is None:
            method = self._methods[name] = self._look_up(name)
        return method

    def _look_up(self, name: str) -> Method:
        if not self._traits.is_class:
            return self._describe(DEFAULT_METHOD, self._function_or_class)
        wanted = name or DEFAULT_METHOD
        is_closed = wanted in CLOSED_METHODS and not (wanted == "close" and self.close is None)
        if is_closed or (wanted.startswith("_") and wanted != DEFAULT_METHOD):
            raise CallRejectedError(f"method {wanted!r} is not open to callers")
        bound = getattr(self._object, wanted, None)
        if not callable(bound) and not name:  # no caller has asked for anything that is not there
            others = ", ".join(methods_of(type(self._object))) or "none"
            raise AnswerError(
                f"class {type(self._object).__name__} has no method '__call__(self, request)', which calls that name no"
                f" method run; methods that can be named: {others}"
            )
        if not callable(bound):
            raise CallRejectedError(f"class {type(self._object).__name__} has no method {wanted!r}")
        return self._describe(wanted, bound)

    def _describe(self, name: str, function: Callable[..., Any]) -> Method:
        return Method(
            name=name,
            function=function,
            is_async=is_async(function),
            batches=self._traits.batches or is_batching(function),
            takes_request=takes_argument(function),
            wraps_async=wraps_async(function),
            bucket_by=bucket_by(function),
        )


def is_later(value: Any) -> bool:
    """Whether a value has to be awaited: a generator of ``types.coroutine`` has, too."""
    return hasattr(type(value), "__await__") or (type(value) is types.GeneratorType and inspect.isawaitable(value))


async def whole(result: Any, size: int) -> Any:
    """What a batching callable gives in the end: what an awaitable of it gives, or what an async iterator of it yields,
    of which at most one more than ``size`` is taken."""
    if inspect.isawaitable(result):
        result = await result
    if not hasattr(type(result), "__aiter__"):
        return result
    answers: list[Any] = []
    try:
        async for answer in result:
            answers.append(answer)
            if len(answers) > size:
                break
    finally:
        if inspect.isasyncgen(result):
            await result.aclose()
    if len(answers) > size:
        raise _other_length(size, f"at least {len(answers)}")
    return answers


def split_batch(result: Any, size: int) -> list[Any]:
    """The members of what a batching callable returned. Of an iterator at most one more than ``size`` is taken: it may
    have no end.

    Raises:
        UserCodeError: it is not iterable in the sense of the contract, or has another length than the batch.
    """
    if isinstance(result, (dict, set, frozenset, str, bytes, bytearray)) or not hasattr(result, "__iter__"):
        raise UserCodeError(
            f"a batching backend must return an iterable of answers (list, tuple, generator, array),"
            f" not {type(result).__name__}"
        )
    answers = list(itertools.islice(result, size + 1))
    if len(answers) <= size:
        if len(answers) < size:
            raise _other_length(size, str(len(answers)))
        return answers
    if inspect.isgenerator(result):
        result.close()
    raise _other_length(size, str(len(result)) if hasattr(result, "__len__") else f"at least {len(answers)}")


def _other_length(size: int, returned: str) -> UserCodeError:
    return UserCodeError(
        f"the backend doesn't preserve batch size: it got {size} requests and returned {returned} answers"
    )


class WrappedRequest(Request):
    """What ``body``, ``json``, ``form``, ``close`` and ``stream`` give is a value where no event loop runs, and has to
    be awaited (``stream``: iterated with ``async for``) where one does: the first is the decorator, the second what it
    wraps. Both see one ``scope`` and one ``state``."""

    __slots__ = ()  # and no name of a slot of `Request` below: it would hide the slot

    def body(self) -> Any:
        return self._starlette().body() if _loop_runs() else super().body()

    def json(self) -> Any:
        return self._starlette().json() if _loop_runs() else super().json()

    def form(self, *args: Any, **kwargs: Any) -> Any:
        return self._starlette().form(*args, **kwargs) if _loop_runs() else super().form(*args, **kwargs)

    def stream(self) -> Any:
        return self._starlette().stream() if _loop_runs() else super().stream()

    def close(self) -> Any:
        super().close()
        return self._starlette().close() if _loop_runs() else None


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
