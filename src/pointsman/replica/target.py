"""User code: the function or class of a backend, loaded and called.

Knows the forms of user code (markers, methods, async or not, with or without an argument), and nothing of the wire.
"""

from __future__ import annotations

import gc
import inspect
import itertools
import pickle
import types
import weakref
from collections.abc import Callable
from typing import Any

from pointsman.exceptions import AnswerError, CallRejectedError, UserCodeError
from pointsman.model import ALL_METHODS, ASGI, PLAIN, TargetTraits
from pointsman.multiplexing.host import Host
from pointsman.multiplexing.loader import BoundLoader, any_loader, loader_of
from pointsman.replica.answers import is_response, takes_time
from pointsman.replica.lifespan import App, app_of
from pointsman.replica.methods import Method
from pointsman.usercode.callables import bucket_by, is_async, is_batching, takes_argument, wraps_async
from pointsman.usercode.packing import (
    CLOSED_METHODS,
    DEFAULT_METHOD,
    check_callable,
    is_hook,
    methods_of,
    unpack_code,
)
from pointsman.usercode.signatures import Signature, read_signature


class Target:
    """A backend's function or class.

    Args:
        code: blob made by :func:`pointsman.usercode.packing.pack_code`, or function or class with its init args.
        traits: what the client found out about the code before it packed it.
    """

    def __init__(self, code: bytes | tuple[Any, tuple[Any, ...]], traits: TargetTraits) -> None:
        self._traits = traits
        self._function_or_class, self._init_args = unpack_code(code) if isinstance(code, bytes) else code
        self._object: Any = None
        self._methods: dict[str, Method] = {}

    def construct(self) -> None:
        """Run the constructor of a class; a function has none.

        Raises:
            TypeError: the object is not callable. Checked last, so that the constructor's own error comes first.
            Exception: whatever user code raises.
        """
        if self._traits.is_class:
            self._object = self._function_or_class(*self._init_args)
            if self._traits.surface == PLAIN and not callable(getattr(self._object, DEFAULT_METHOD, None)):
                check_callable(type(self._object))

    def app(self) -> App:
        """Make the ASGI app of a backend that has one. Raises what user code raises, and TypeError if it makes none."""
        return app_of(self._function_or_class, self._object)

    def reconfigure(self, user_config: bytes) -> Any:
        """Call ``reconfigure``; the result is awaitable when the method is ``async def``."""
        return self._object.reconfigure(pickle.loads(user_config))

    @property
    def health_check(self) -> Callable[[], Any] | None:
        """The object's ``check_health``, which may be ``async def``; None if there is none."""
        return self._own("check_health")

    @property
    def close(self) -> Callable[[], Any] | None:
        """The class's ``close``, which may be ``async def``; None if there is none."""
        # Looked up on the class: an object whose `__getattr__` delegates to a model would give the model's `close`.
        return self._own("close") if is_hook(getattr(type(self._object), "close", None)) else None

    @property
    def models(self) -> Host | None:
        """What the loader of the class has loaded for the object; None if it has no loader."""
        loader = loader_of(type(self._object)) if self._traits.multiplexed else None
        return None if loader is None else loader.host_of(self._object)

    def release(self) -> None:
        """Drop all references to user code, so that its finalizers run. The target cannot be used afterwards."""
        self._object = self._function_or_class = None
        self._init_args = ()
        self._methods.clear()
        gc.unfreeze()  # a collection frees no frozen objects
        gc.collect()

    def check_open_to_http(self, name: str, http_methods: tuple[str, ...]) -> None:
        """Check that HTTP clients may name this method.

        Raises:
            CallRejectedError: they may not. The same error whether there is such a method or not.
        """
        named = name in http_methods or name == DEFAULT_METHOD
        # Methods of the class only: a callable attribute of the object, such as a model, is not one.
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
        if self._traits.surface == ASGI and (not name or not self._traits.is_class):
            raise CallRejectedError(
                "this backend is an ASGI app, which is called over HTTP; name a method of its class"
            )
        if not self._traits.is_class:
            return self._describe(DEFAULT_METHOD, self._function_or_class)
        wanted = name or DEFAULT_METHOD
        is_closed = wanted in CLOSED_METHODS and not (wanted == "close" and self.close is None)
        if is_closed or (wanted.startswith("_") and wanted != DEFAULT_METHOD):
            raise CallRejectedError(f"method {wanted!r} is not open to callers")
        bound = getattr(self._object, wanted, None)
        if not callable(bound) and not name:  # the backend's fault: the caller has named no method
            others = ", ".join(methods_of(type(self._object))) or "none"
            raise AnswerError(
                f"class {type(self._object).__name__} has no method '__call__(self, request)', which calls that name no"
                f" method run; methods that can be named: {others}"
            )
        if not callable(bound):
            raise CallRejectedError(f"class {type(self._object).__name__} has no method {wanted!r}")
        if isinstance(bound, BoundLoader):
            raise CallRejectedError(f"method {wanted!r} loads models, and is not open to callers")
        return self._describe(wanted, bound)

    def _describe(self, name: str, function: Callable[..., Any]) -> Method:
        batches = self._traits.batches or is_batching(function)
        signature = self._signature(name, function, batches)
        method = Method(
            name=name,
            function=function,
            is_async=is_async(function),
            batches=batches,
            takes_request=signature is not None or takes_argument(function),
            wraps_async=wraps_async(function),
            bucket_by=bucket_by(function),
            signature=signature,
            uses_models=any_loader(),
        )
        if signature is None:
            return method
        from pointsman.replica.typed import typed_method  # replicas of other callables need none of it

        return typed_method(method, signature)

    def _signature(self, name: str, function: Callable[..., Any], batches: bool) -> Signature | None:
        try:
            return read_signature(function, batches=batches)
        except TypeError:
            if name == DEFAULT_METHOD:  # a client has passed it, in another environment
                raise
            return None  # a method with other parameters, which no call can name with success


def needs_await(value: Any) -> bool:
    """True for an awaitable, including a generator of ``types.coroutine``."""
    return hasattr(type(value), "__await__") or (type(value) is types.GeneratorType and inspect.isawaitable(value))


def is_whole(value: Any, http_method: str) -> bool:
    """True for an answer that can be sent at once: it is not awaited, iterated, or called as an ASGI app."""
    kind = type(value)
    if kind in _whole:
        return True
    if needs_await(value) or takes_time(value, http_method):
        return False
    if not is_response(value):
        _whole.add(kind)
    return True


_whole: weakref.WeakSet[type[Any]] = weakref.WeakSet()
"""Classes whose objects are whole. To find that a class lacks a method takes a model of pydantic a microsecond, since
its metaclass is asked; four methods are looked for."""


async def finished_batch(result: Any, size: int) -> Any:
    """The final result of a batching callable: an awaitable is awaited, and an async iterator collected. At most
    ``size`` + 1 answers are taken from the latter, which may have no end."""
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
    """The answers in the result of a batching callable. At most ``size`` + 1 are taken from an iterator, which may have
    no end.

    Raises:
        UserCodeError: the result is no iterable of answers, or has another length than the batch.
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
