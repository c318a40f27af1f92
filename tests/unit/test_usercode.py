"""usercode: what can be a backend, what it takes, and what keeps it from being shipped."""

from __future__ import annotations

import functools
import math
import threading
import types
import warnings
from typing import Any

import pytest

import pointsman as serve
from pointsman.exceptions import CallRejectedError
from pointsman.model import TargetTraits
from pointsman.replica.target import Target
from pointsman.usercode.callables import takes_argument
from pointsman.usercode.packing import code_digest, inspect_code, pack_code, unpack_code

LOCK = threading.Lock()


def function(request: Any) -> str:
    return "function"


async def coroutine(request: Any) -> str:
    return "coroutine"


def nothing() -> str:
    return "nothing"


@serve.accept_batch
def batching(requests: list[Any]) -> list[Any]:
    return requests


class Plain:
    def __call__(self, request: Any) -> str:
        return "plain"


class Bare:
    """Has other methods than ``__call__`` only."""

    def other(self, request: Any) -> str:
        return "other"


class Batching:
    @serve.accept_batch
    def __call__(self, requests: list[Any]) -> list[Any]:
        return requests


class Inherits(Batching):
    pass


class Overrides(Batching):
    def __call__(self, request: Any) -> Any:
        return request


class BatchingMethod(Plain):
    @serve.accept_batch
    async def many(self, requests: list[Any]) -> list[Any]:
        return requests


class Reconfigurable(Plain):
    async def reconfigure(self, config: Any) -> None: ...


class Closes(Plain):
    def close(self) -> None: ...


def around(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


decorated = around(batching)


@functools.lru_cache
def cached(request: Any) -> str:
    return "cached"


class Decorated:
    __call__ = functools.partialmethod(Batching.__call__)


class NotReconfigurable(Plain):
    reconfigure = None


class AlsoAsync(Plain):
    async def other(self) -> None: ...


class AsyncHooks(Plain):
    async def reconfigure(self, config: Any) -> None: ...

    async def _private(self) -> None: ...


@functools.wraps(coroutine)
def wrapped_async(request: Any) -> Any:
    return coroutine(request)


@pytest.mark.parametrize(
    ("code", "traits"),
    [
        (function, TargetTraits(is_class=False, one_at_a_time=True)),
        (coroutine, TargetTraits(is_class=False)),
        (nothing, TargetTraits(is_class=False, one_at_a_time=True)),
        (lambda request: request, TargetTraits(is_class=False, one_at_a_time=True)),
        (batching, TargetTraits(is_class=False, batches=True)),
        (Plain, TargetTraits(is_class=True, one_at_a_time=True)),
        (Bare, TargetTraits(is_class=True, one_at_a_time=True)),
        (Batching, TargetTraits(is_class=True, batches=True)),
        (Inherits, TargetTraits(is_class=True, batches=True)),
        (Overrides, TargetTraits(is_class=True, one_at_a_time=True)),
        (BatchingMethod, TargetTraits(is_class=True, has_batching_method=True)),
        (Reconfigurable, TargetTraits(is_class=True, has_reconfigure=True, one_at_a_time=True)),
        (Closes, TargetTraits(is_class=True, has_close=True, one_at_a_time=True)),
        (decorated, TargetTraits(is_class=False, batches=True)),
        (cached, TargetTraits(is_class=False, one_at_a_time=True)),
        (Decorated, TargetTraits(is_class=True, batches=True)),
        (NotReconfigurable, TargetTraits(is_class=True, one_at_a_time=True)),
        (AlsoAsync, TargetTraits(is_class=True, mixed=True)),
        (AsyncHooks, TargetTraits(is_class=True, has_reconfigure=True, one_at_a_time=True)),
        (wrapped_async, TargetTraits(is_class=False)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_seen(code: Any, traits: TargetTraits) -> None:
    """Functions and classes are accepted, and their batch marker and reconfigure method are seen (CB2, CB8, BA13)."""
    assert inspect_code(code, ()) == traits


@pytest.mark.parametrize(
    "thing", [Plain(), functools.partial(function, 1), len, math.sin, Plain().__call__, "function", None, 3, [function]]
)
def test_what_is_no_backend(thing: Any) -> None:
    """Instances, partials, builtins and values are refused, and the text shows what was given (CB2)."""
    with pytest.raises(TypeError) as caught:
        inspect_code(thing, ())
    assert repr(thing) in str(caught.value)
    assert type(thing).__name__ in str(caught.value)


class Empty:
    """Has been given a model and no way to ask it."""

    class Settings:
        pass

    def __init__(self) -> None:
        self.model = None


class Private(Empty):
    def _predict(self, request: Any) -> str:
        return "private"


class OnlyOurs(Empty):
    def reconfigure(self, config: Any) -> None: ...

    def check_health(self) -> None: ...

    def close(self) -> None: ...


class NotCallable(Empty):
    __call__ = None


class Dynamic:
    """Finds its methods when they are asked for."""

    def __getattr__(self, name: str) -> Any:
        return lambda request: name


@pytest.mark.parametrize("code", [Empty, Private, OnlyOurs, NotCallable])
def test_a_class_without_a_way_to_be_called(code: Any) -> None:
    """A class with neither ``__call__`` nor another public method is refused once its constructor has run, whose own
    error comes first, and the text says what to write (CB2, CB10)."""
    target = Target(pack_code(code, ()), inspect_code(code, ()))
    with pytest.raises(TypeError, match=rf"class {code.__name__} cannot be called.*__call__\(self, request\)"):
        target.construct()


def test_a_class_may_have_other_ways_in() -> None:
    """Methods that are named, or made up when they are asked for, are ways to be called (CB2, RQ7)."""
    for code in (Bare, Dynamic):
        Target(pack_code(code, ()), inspect_code(code, ())).construct()


def test_functions_take_no_init_args() -> None:
    """Init args for a function are refused and shown; a class may have any (CB2)."""
    with pytest.raises(ValueError, match=r"\(1, 'two'\).*'function'"):
        inspect_code(function, (1, "two"))
    assert inspect_code(Plain, (1, "two")).is_class


def test_the_marker_does_not_go_on_a_class() -> None:
    """Marking a class does nothing but warn, with a word on where the marker belongs (BA13)."""
    with pytest.warns(UserWarning, match=r"Plain\.__call__") as caught:
        assert serve.accept_batch(Plain) is Plain
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match=r"Plain\.__call__"):
        assert serve.accept_batch(bucket_by=len)(Plain) is Plain
    assert not inspect_code(Plain, ()).batches
    with pytest.raises(TypeError, match="not 5"):
        serve.accept_batch(5)


def one(request: Any) -> None: ...


def one_default(request: Any = None) -> None: ...


def one_and_options(request: Any, more: int = 1, *, flag: bool = False, **rest: Any) -> None: ...


def only_positional(request: Any, /) -> None: ...


def any_number(*requests: Any) -> None: ...


def only_options(*, flag: bool = False) -> None: ...


def only_rest(**rest: Any) -> None: ...


def two(request: Any, other: Any) -> None: ...


def three(request: Any, other: Any, third: Any) -> None: ...


def keyword_needed(request: Any, *, flag: bool) -> None: ...


def only_keyword_needed(*, flag: bool) -> None: ...


@pytest.mark.parametrize(
    ("code", "takes"),
    [
        (one, True),
        (one_default, True),
        (one_and_options, True),
        (only_positional, True),
        (any_number, True),
        (nothing, False),
        (only_options, False),
        (only_rest, False),
    ],
)
def test_none_or_one_argument(code: Any, takes: bool) -> None:
    """A callable gets the request when it takes an argument, and is called without one when it does not (CB3, RQ6)."""
    assert takes_argument(code) == takes
    assert not inspect_code(code, ()).is_class


@pytest.mark.parametrize(
    ("code", "names"),
    [
        (two, ["two", "other"]),
        (three, ["three", "other, third"]),
        (keyword_needed, ["keyword_needed", "flag"]),
        (only_keyword_needed, ["only_keyword_needed", "flag"]),
    ],
)
def test_more_than_one_argument(code: Any, names: list[str]) -> None:
    """A callable that requires more than the request is refused at create, and the text says what is too much (CB3)."""
    with pytest.raises(TypeError) as caught:
        inspect_code(code, ())
    assert all(name in str(caught.value) for name in names)


def test_a_decorators_own_arguments_count() -> None:
    """What is called is the decorator's function: it may add what the one within requires, and one that passes on
    whatever it is given takes a request where that one does (CB3, RQ6)."""

    @functools.wraps(two)
    def adds(request: Any) -> Any:
        return two(request, 1)

    @functools.wraps(nothing)
    def ignores(request: Any) -> Any:
        return nothing()

    @functools.wraps(one)
    def requires_more(request: Any, extra: Any) -> Any:
        return one(request)

    assert takes_argument(adds)
    assert takes_argument(ignores)
    assert takes_argument(around(one))
    assert not takes_argument(around(nothing))
    assert not takes_argument(around(around(nothing)))
    assert takes_argument(around(two))
    with pytest.raises(TypeError, match="extra"):
        takes_argument(requires_more)


class CallNone:
    def __call__(self) -> None: ...


class CallTwo:
    def __call__(self, request: Any, other: Any) -> None: ...


class CallAny:
    def __call__(*args: Any) -> None: ...


class CallStatic:
    @staticmethod
    def __call__(request: Any) -> None: ...


def test_self_is_not_an_argument() -> None:
    """For a class it is the arguments beside self that count (CB3, RQ6)."""
    assert takes_argument(Plain.__call__, bound=True)
    assert not takes_argument(CallNone.__call__, bound=True)
    assert takes_argument(Plain().__call__)
    assert inspect_code(CallNone, ()).is_class
    assert inspect_code(CallAny, ()).is_class
    with pytest.raises(TypeError, match=r"CallTwo\.__call__.*other"):
        inspect_code(CallTwo, ())


def test_a_static_call_is_not_robbed_of_its_argument() -> None:
    """A static ``__call__`` of one argument is a backend, and one of two is refused like any other (CB3)."""
    assert inspect_code(CallStatic, ()).is_class
    static_two = type("StaticTwo", (), {"__call__": staticmethod(two)})
    with pytest.raises(TypeError, match="other"):
        inspect_code(static_two, ())


def test_a_plain_value_in_the_place_of_a_body_is_told() -> None:
    """A model that annotates its body with list[str] gets the request, and I am told, with my file and line (TY1)."""

    class Model:
        def __call__(self, texts: list[str]) -> list[str]:
            return texts

    with pytest.warns(UserWarning, match=r"'texts' of .*Model\.__call__ .* list\[str\], which is no model") as caught:
        inspect_code(Model, ())
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inspect_code(lambda request: request, ())
        inspect_code(type("Plain", (), {"__call__": lambda self, request: request}), ())


# --- shipping -------------------------------------------------------------------------------------------------


def local_class() -> type:
    """A class that is pickled by value, as those of a user's script are."""

    class Model:
        def __init__(self, factor: int) -> None:
            self.factor = factor

        def __call__(self, number: int) -> int:
            return self.factor * number

    return Model


def test_code_travels() -> None:
    """A class of the user's script comes out at the replica with its init args, and works there (CB2)."""
    data = pack_code(local_class(), (3,))
    model, init_args = unpack_code(data)
    assert model(*init_args)(5) == 15
    assert isinstance(data, bytes)


def test_functions_remember_their_file() -> None:
    """A traceback from a replica names my file, so that it can show the line that failed (EX4)."""
    model, _ = unpack_code(pack_code(local_class(), (3,)))
    functions = [value for value in vars(model).values() if isinstance(value, types.FunctionType)]
    assert functions
    assert {function.__code__.co_filename for function in functions} == {__file__}


def test_digests_name_code() -> None:
    """Code is stored under a name that depends on its bytes alone (CL6)."""
    assert code_digest(b"code") == code_digest(b"code") != code_digest(b"other code")
    assert code_digest(b"").isalnum()


def with_bad_attribute() -> tuple[Any, tuple[Any, ...], str]:
    class Model:
        limit = 3
        guard = threading.Lock()

        def __call__(self, request: Any) -> None: ...

    return Model, (), "attribute 'guard' of class Model"


def with_bad_closure() -> tuple[Any, tuple[Any, ...], str]:
    guard = threading.Lock()

    def model(request: Any) -> None:
        with guard:
            pass

    return model, (), "variable 'guard' used by "


def with_bad_global() -> tuple[Any, tuple[Any, ...], str]:
    class Model:
        def __call__(self, request: Any) -> None:
            with LOCK:
                pass

    return Model, (), "variable 'LOCK' used by "


def with_bad_argument() -> tuple[Any, tuple[Any, ...], str]:
    return Plain, ("fine", threading.Lock()), "init argument 1"


def with_bad_part_of_an_argument() -> tuple[Any, tuple[Any, ...], str]:
    return Plain, ({"deep": [threading.Lock()]},), "init argument 0"


def with_unset_variable() -> tuple[Any, tuple[Any, ...], str]:
    class Model:
        def __init__(self, guard: Any) -> None:
            self.later = lambda: unset

        def __call__(self, request: Any) -> None:
            unset()

    if not Model:
        unset = print
    return Model, (threading.Lock(),), "init argument 0"


@pytest.mark.parametrize(
    "make",
    [
        with_bad_attribute,
        with_bad_closure,
        with_bad_global,
        with_bad_argument,
        with_bad_part_of_an_argument,
        with_unset_variable,
    ],
)
def test_what_cannot_be_shipped_is_named(make: Any) -> None:
    """A user whose class holds a lock reads which attribute, variable or argument it is, not just that it is (CB2)."""
    code, init_args, culprit = make()
    with pytest.raises(TypeError) as caught:
        pack_code(code, init_args)
    text = str(caught.value)
    assert culprit in text
    assert code.__qualname__ in text
    assert "lock" in text.lower()
    assert caught.value.__cause__ is not None


def test_what_cannot_be_named_is_still_told() -> None:
    """An object that fails to be pickled in its own way is refused with its own words (CB2)."""

    class Stubborn:
        def __reduce__(self) -> Any:
            raise RuntimeError("over my dead body")

    with pytest.raises(TypeError, match=r"init argument 0.*RuntimeError: over my dead body"):
        pack_code(Plain, (Stubborn(),))


class Positions:
    """Its ``close`` was written before there was a hook of that name."""

    def __init__(self) -> None:
        self.helper = lambda request: "not a method"

    class Inner: ...

    def __call__(self, request: Any) -> str:
        return "called"

    def close(self, request: Any) -> str:
        return "position closed"


class Closes:
    def __call__(self, request: Any) -> None: ...

    def close(self, timeout_s: float = 1.0) -> None: ...


def test_a_close_that_wants_a_request_is_a_method_like_others() -> None:
    """It is not called at the end of a replica, and callers may name it (CB11, RQ7)."""
    traits = inspect_code(Positions, ())
    target = Target(pack_code(Positions, ()), traits)
    target.construct()
    assert (traits.has_close, target.close) == (False, None)
    assert target.method("close").call(None) == "position closed"
    assert inspect_code(Closes, ()).has_close


def test_all_methods_are_those_of_the_class() -> None:
    """``http_methods="*"`` opens methods, and not whatever callable an object or its class holds (BC8)."""
    target = Target(pack_code(Positions, ()), inspect_code(Positions, ()))
    target.construct()
    target.check_open_to_http("close", ("*",))
    for name in ("helper", "Inner"):
        with pytest.raises(CallRejectedError):
            target.check_open_to_http(name, ("*",))
    target.check_open_to_http("helper", ("helper",))
