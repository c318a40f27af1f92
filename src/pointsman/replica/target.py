"""User code: the function or class of a backend, loaded and called.

Knows how user code looks (markers, methods, async or not, with or without an argument) and nothing of the wire.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from pointsman.exceptions import CallRejectedError, UserCodeError
from pointsman.model import TargetTraits
from pointsman.request import Incoming, Request, async_request, bucket_of, is_marked
from pointsman.usercode import DEFAULT_METHOD, takes_argument, unpack_code

_CLOSED_METHODS = frozenset({"reconfigure", "check_health"})


class Method(NamedTuple):
    """One way into user code."""

    name: str
    function: Callable[..., Any]
    is_async: bool
    batches: bool
    takes_request: bool
    bucket_by: Callable[[Any], Hashable] | None = None
    """Of a batching method: requests share a batch only when this gives the same for them."""

    def request(self, incoming: Incoming) -> Any:
        """The request in the form that this method wants."""
        return async_request(incoming) if self.is_async else Request(incoming)

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
        """Run the constructor; for a function there is nothing to do. Raises what user code raises."""
        if self._traits.is_class:
            self._object = self._function_or_class(*self._init_args)

    def reconfigure(self, user_config: bytes) -> Any:
        """Call ``reconfigure``; the result is awaitable when the method is ``async def``."""
        return self._object.reconfigure(pickle.loads(user_config))

    @property
    def health_check(self) -> Callable[[], Any] | None:
        """The class's ``check_health``, where it has one; it may be ``async def``."""
        check = getattr(self._object, "check_health", None) if self._traits.is_class else None
        return check if callable(check) else None

    def method(self, name: str) -> Method:
        """The method that a call names; the empty name is ``__call__``.

        Raises:
            CallRejectedError: there is no such method, or it is not open to callers.
        """
        method = self._methods.get(name)
        if method is None:
            method = self._methods[name] = self._look_up(name)
        return method

    def _look_up(self, name: str) -> Method:
        if not self._traits.is_class:
            return self._describe(DEFAULT_METHOD, self._function_or_class, self._function_or_class)
        wanted = name or DEFAULT_METHOD
        if wanted in _CLOSED_METHODS or (wanted.startswith("_") and wanted != DEFAULT_METHOD):
            raise CallRejectedError(f"method {wanted!r} is not open to callers")
        bound = getattr(self._object, wanted, None)
        if not callable(bound):
            raise CallRejectedError(f"class {type(self._object).__name__} has no method {wanted!r}")
        return self._describe(wanted, bound, inspect.unwrap(bound))

    def _describe(self, name: str, function: Callable[..., Any], inner: Callable[..., Any]) -> Method:
        is_async = any(
            check(candidate)
            for check in (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
            for candidate in (function, inner)
        )
        return Method(
            name=name,
            function=function,
            is_async=is_async,
            batches=self._traits.batches or is_marked(function) or is_marked(inner),
            takes_request=takes_argument(function),
            bucket_by=bucket_of(function) or bucket_of(inner),
        )


async def whole(result: Any) -> Any:
    """What an async batching callable gives in the end: what its coroutine returns, or all that it yields."""
    return [value async for value in result] if inspect.isasyncgen(result) else await result


def split_batch(result: Any, size: int) -> list[Any]:
    """The members of what a batching callable returned.

    Raises:
        UserCodeError: it is not iterable in the sense of the contract, or has another length than the batch.
    """
    if isinstance(result, (dict, set, frozenset, str, bytes, bytearray)) or not hasattr(result, "__iter__"):
        raise UserCodeError(
            f"a batching backend must return an iterable of answers (list, tuple, generator, array),"
            f" not {type(result).__name__}"
        )
    answers = list(result)
    if len(answers) != size:
        raise UserCodeError(
            f"the backend doesn't preserve batch size: it got {size} requests and returned {len(answers)} answers"
        )
    return answers
