"""serve.multiplexed: what it takes, and loaders outside of a replica."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
import weakref
from typing import Any

import cloudpickle
import pytest

import pointsman as serve
from pointsman.context import CallScope, UsedModels, call_scope, memory_tags
from pointsman.exceptions import DeadlineExceededError, ServeException
from pointsman.multiplexing.loader import UNLIMITED, Loader, loaders_of
from pointsman.usercode.packing import inspect_code, methods_of
from tests.conftest import wait_until


class Zoo:
    def __init__(self) -> None:
        self.loads: list[str] = []

    @serve.multiplexed(max_models=2)
    def model(self, model_id: str) -> Any:
        """Load one."""
        self.loads.append(model_id)
        return [model_id]

    def __call__(self, request: Any) -> Any:
        return self.model(request.body().decode())


def loader_of(function: Any) -> Loader:
    assert isinstance(function, Loader)
    return function


def scope_with(models: UsedModels, deadline: float = float("inf")) -> CallScope:
    scope = CallScope(deadline, "r")
    scope.models = models
    return scope


# --- what it takes -----------------------------------------------------------------------------------------------


def test_it_is_used_bare_and_with_limits_and_by_ray_serves_name() -> None:
    """Bare it keeps three models; a limit is given by either name, and -1 is none (MX1)."""

    @serve.multiplexed
    def bare(model_id: str) -> str:
        return model_id

    @serve.multiplexed(max_num_models_per_replica=5)
    async def rays(model_id: str) -> str:
        return model_id

    @serve.multiplexed(max_models=-1)
    def unlimited(model_id: str) -> str:
        return model_id

    assert loader_of(bare).max_models == 3
    assert loader_of(rays).max_models == 5
    assert loader_of(unlimited).max_models == UNLIMITED
    assert loader_of(Zoo.model).max_models == 2
    assert Zoo.model.__doc__ == "Load one."
    assert Zoo.model.__name__ == "model"


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_models": 2, "max_num_models_per_replica": 2}, TypeError, "two names for one number"),
    ({"max_models": "3"}, TypeError, "max_models must be an int, not '3'"),
    ({"max_models": 2.0}, TypeError, "max_models must be an int, not 2.0"),
    ({"max_models": True}, TypeError, "max_models must be an int, not True"),
    ({"max_num_models_per_replica": None, "max_models": 0}, ValueError, "max_models must be at least 1, or -1"),
    ({"max_num_models_per_replica": -2}, ValueError, "max_num_models_per_replica must be at least 1, or -1"),
    ({"max_bytes": 10}, TypeError, "max_bytes needs size_of"),
    ({"max_bytes": 1.5, "size_of": len}, TypeError, "max_bytes must be an int, not 1.5"),
    ({"max_bytes": 0, "size_of": len}, ValueError, "max_bytes must be at least 1, not 0"),
    ({"size_of": 10}, TypeError, "size_of must be a function, not 10"),
    ({"unload": "close"}, TypeError, "unload must be a function, not 'close'"),
]


@pytest.mark.parametrize(("arguments", "error", "text"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_limit_is_refused_with_its_name(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    """Two names for one limit, no int, none of a size's function: one sentence says what is wrong (MX2)."""
    with pytest.raises(error) as raised:
        serve.multiplexed(**arguments)
    assert text in str(raised.value)


def no_id() -> Any: ...


def two_ids(model_id: str, other: str) -> Any: ...


def has_default(model_id: str, other: str = "") -> Any: ...


def any_ids(*ids: str) -> Any: ...


def keyword(*, model_id: str) -> Any: ...


def generator(model_id: str) -> Any:
    yield model_id


async def async_generator(model_id: str) -> Any:
    yield model_id


class Apart:
    def method(self) -> Any: ...

    def wide(self, model_id: str, other: str) -> Any: ...

    static = staticmethod(len)


@pytest.mark.parametrize(
    "function",
    [
        no_id,
        two_ids,
        has_default,
        any_ids,
        keyword,
        generator,
        async_generator,
        Apart.method,
        Apart.wide,
        len,
        Apart,
        3,
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_function_that_does_not_take_one_id_is_refused(function: Any) -> None:
    """What takes none, two, any number of ids, or gives values one by one, loads no model (MX2)."""
    with pytest.raises(TypeError) as raised:
        serve.multiplexed(function)
    assert "loader takes one id" in str(raised.value) or "marks a def or async def" in str(raised.value)


def test_a_class_with_two_loaders_is_refused_at_create() -> None:
    """Both are named; a subclass that replaces its parent's loader has one (MX2)."""

    class Two(Zoo):
        @serve.multiplexed
        def second(self, model_id: str) -> Any:
            return model_id

    class Replaced(Zoo):
        @serve.multiplexed
        def model(self, model_id: str) -> Any:
            return model_id

    class Without(Zoo):
        model = None  # type: ignore[assignment]

    with pytest.raises(ValueError, match="class Two has 2 loaders, model, second; it can have one"):
        inspect_code(Two, ())
    assert inspect_code(Replaced, ()).multiplexed
    assert list(loaders_of(Replaced)) == ["model"]
    assert not inspect_code(Without, ()).multiplexed


def test_the_traits_of_a_class_say_that_it_loads_models() -> None:
    """Routers hear of it, the loader is no method that callers can name, and sync code is still one at a time (MX1)."""
    traits = inspect_code(Zoo, ())
    assert traits.multiplexed
    assert traits.one_at_a_time
    assert methods_of(Zoo) == []


# --- calling a loader --------------------------------------------------------------------------------------------


def test_a_loader_can_be_tried_without_a_replica() -> None:
    """In a test of one's own, or a notebook, an object loads each model once and gives it (MX1)."""
    zoo = Zoo()
    assert zoo.model("a") is zoo.model("a")
    assert zoo.model(model_id="b") == ["b"]
    assert zoo.loads == ["a", "b"]
    assert Zoo().model("a") is not zoo.model("a")


def test_in_an_event_loop_it_gives_an_awaitable() -> None:
    """The very same loader is awaited in async code, one by one or many at once (MX1)."""

    async def main() -> None:
        zoo = Zoo()
        first, second = await asyncio.gather(zoo.model("a"), zoo.model("a"))
        assert first is second is await zoo.model("a")
        assert zoo.loads == ["a"]

    asyncio.run(main())


def test_an_async_loader_runs_for_sync_and_async_callers() -> None:
    """``async def`` loaders are awaited in a loop of their own (MX1, MX4)."""

    @serve.multiplexed
    async def load(model_id: str) -> Any:
        await asyncio.sleep(0)
        return [model_id, threading.current_thread().name]

    async def main() -> Any:
        return await load("b")

    assert load("a") == ["a", "pointsman-load"]
    assert asyncio.run(main()) == ["b", "pointsman-load"]


def test_an_id_is_a_str_that_is_not_empty() -> None:
    """A request that has named no model, and a number, are told apart in words (MX3)."""
    zoo = Zoo()
    with pytest.raises(ValueError, match="may have named no model"):
        zoo.model("")
    with pytest.raises(TypeError, match="the id of a model is a str, not 3"):
        zoo.model(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        zoo.model()  # type: ignore[call-arg]


def test_a_loader_may_use_another_loader() -> None:
    """A model that is made of another one: both are kept (MX1)."""

    @serve.multiplexed
    def base(model_id: str) -> Any:
        return [model_id]

    @serve.multiplexed
    def fine(model_id: str) -> Any:
        return [base("base"), model_id]

    assert fine("a")[0] is fine("b")[0] is base("base")


class Circle:
    """Its models need others: ``a`` itself, ``b`` the model ``c``, and that one ``b``; ``pair`` has room for one."""

    @serve.multiplexed(max_models=4)
    def model(self, model_id: str) -> Any:
        needs = {"a": "a", "b": "c", "c": "b", "top": "base"}.get(model_id)
        return f"{model_id}({self.model(needs) if needs else ''})"

    @serve.multiplexed(max_models=4)
    async def later(self, model_id: str) -> Any:
        needs = {"a": "a", "b": "c", "c": "b", "top": "base"}.get(model_id)
        return f"{model_id}({await self.later(needs) if needs else ''})"

    @serve.multiplexed(max_models=1)
    def single(self, model_id: str) -> Any:
        return self.single("other") if model_id == "first" else model_id

    @serve.multiplexed(max_models=1)
    async def later_single(self, model_id: str) -> Any:
        return await self.later_single("other") if model_id == "first" else model_id


@pytest.mark.parametrize("name", ["model", "later"])
def test_loads_that_need_one_another_fail_at_once(name: str) -> None:
    """A loader that asks for the model which it loads, directly or through another one, raises instead of waiting for
    ever in its place; one that asks for a further model gets it (MX9)."""
    circle = Circle()
    load = getattr(circle, name)
    for model_id in "abc":
        with pytest.raises(ServeException, match=r"needs model '[abc]' itself"):
            load(model_id)
    assert load("top") == "top(base())"
    loader = vars(Circle)[name]
    wait_until(lambda: loader.host_of(circle)._cache.statistics()[1:] == (0, 0, 0))


@pytest.mark.parametrize("name", ["single", "later_single"])
def test_a_load_that_takes_the_only_place_does_not_wait_for_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a loader needs a second model and there is room for one, its load fails after half a minute, and other
    models can be loaded (MX9)."""
    monkeypatch.setattr("pointsman.multiplexing.nesting.ROOM_S", 0.05)
    circle = Circle()
    load = getattr(circle, name)
    with pytest.raises(ServeException, match=r"a load needs model 'other', for which there was no room"):
        load("first")
    assert load("other") == "other"


def test_the_loader_of_an_object_that_has_gone_says_so() -> None:
    """``Model().model`` keeps no object, and its call says what is to be done (MX1)."""
    load = Circle().model
    with pytest.raises(ReferenceError, match=r"the object whose Circle\.model this is has gone"):
        load("x")


def test_an_object_that_is_copied_begins_without_models() -> None:
    """Pickling or copying an object of user code takes no locks or threads along (MX1)."""
    zoo = Zoo()
    zoo.model("a")
    for other in (copy.deepcopy(zoo), pickle.loads(pickle.dumps(zoo))):
        assert other.model("a") == ["a"]
        assert other.loads == ["a", "a"]


def test_a_loader_travels_with_its_class() -> None:
    """A class in a notebook is pickled by value, with its loader and without what that has loaded (MX1)."""

    class Here:
        @serve.multiplexed(max_models=7)
        def model(self, model_id: str) -> Any:
            return [model_id]

    @serve.multiplexed
    def free(model_id: str) -> Any:
        return [model_id]

    free("a")
    there, loader = pickle.loads(cloudpickle.dumps((Here, free)))
    assert there.model.max_models == 7
    assert there().model("b") == ["b"]
    assert loader("a") == ["a"]


def test_an_object_without_a_dict_has_no_place_for_models() -> None:
    """A class with ``__slots__`` only is told so in one sentence (MX1)."""

    class Slotted:
        __slots__ = ()

        @serve.multiplexed
        def model(self, model_id: str) -> Any:
            return model_id

    with pytest.raises(TypeError, match="Slotted has no __dict__"):
        Slotted().model("a")


def test_a_failed_load_raises_the_loaders_own_exception() -> None:
    """Twice within a second: the same exception, with the loader's line in its traceback, and one try (MX9)."""
    tries = []

    @serve.multiplexed
    def broken(model_id: str) -> Any:
        tries.append(model_id)
        raise OSError("disk on fire")

    depths = []
    for _ in range(3):
        with pytest.raises(OSError, match="disk on fire") as raised:
            broken("a")
        assert "broken" in str(raised.traceback[-1])
        depths.append(len(raised.traceback))
    assert tries == ["a"]
    assert depths[1] == depths[2], "the traceback grows"


def test_a_failed_load_keeps_nothing_in_memory() -> None:
    """What a loader had read before it failed goes, also where it raised its error from another one (MX9)."""

    class Weights:
        pass

    read: list[weakref.ref[Weights]] = []

    def parse() -> None:
        weights = Weights()
        read.append(weakref.ref(weights))
        raise KeyError("layer 7")

    @serve.multiplexed
    def broken(model_id: str) -> Any:
        try:
            parse()
        except KeyError as error:
            raise OSError("no such layer") from error

    with pytest.raises(OSError, match="no such layer"):
        broken("a")
    gc.collect()
    assert [weights() for weights in read] == [None]


def test_a_call_that_is_over_waits_no_longer() -> None:
    """A thread that waits for a model is woken at the deadline of its call, and when its caller has gone (MX8)."""
    opened = threading.Event()

    @serve.multiplexed
    def slow(model_id: str) -> Any:
        opened.wait(20)
        return model_id

    def wait_in(scope: CallScope) -> str:
        call_scope.set(scope)
        try:
            return slow("a")  # type: ignore[no-any-return]
        except ServeException as error:
            return f"{type(error).__name__}: {error}"

    try:
        late = scope_with(UsedModels("a"), 0.0)
        assert wait_in(late).startswith(DeadlineExceededError.__name__)
        gone = scope_with(UsedModels("a"))
        texts: list[str] = []
        thread = threading.Thread(target=lambda: texts.append(wait_in(gone)))
        thread.start()
        while thread.is_alive():
            gone.adopt(NOTHING)  # gives up as soon as it waits
            for call in list(gone._inner or ()):
                call.cancel()
            thread.join(0.001)
        assert texts == ["ServeException: the caller has gone while model 'a' was waited for"]
    finally:
        call_scope.set(None)
        opened.set()


class Nothing:
    def cancel(self) -> None: ...


NOTHING = Nothing()


def test_models_of_a_call_are_kept_until_its_end() -> None:
    """Within a call a model is the same though others come and go; afterwards it may go (MX8)."""
    gone: list[str] = []

    @serve.multiplexed(max_models=1, unload=gone.append)
    def load(model_id: str) -> Any:
        return model_id

    models = UsedModels()
    call_scope.set(scope_with(models))
    try:
        assert load("a") == load("a") == "a"
        host = loader_of(load)._own_host()
        assert [model.in_use for model in host.models()] == [1]
        models.end()
        assert [model.in_use for model in host.models()] == [0]
        models.end()
    finally:
        call_scope.set(None)
    assert load("b") == "b"
    assert gone == ["a"]


# --- the id of a request -----------------------------------------------------------------------------------------


def test_the_id_is_empty_without_one_and_an_error_outside_a_replica() -> None:
    """A script that asks for the id is told that it is no backend; a constructor gets an empty one (MX3)."""
    with pytest.raises(ServeException, match="get_multiplexed_model_id\\(\\) works only inside a backend"):
        serve.get_multiplexed_model_id()
    token = memory_tags.set(("b", "b#1"))
    try:
        assert serve.get_multiplexed_model_id() == ""
    finally:
        memory_tags.reset(token)
