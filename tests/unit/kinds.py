"""A user's module, with a function for each kind of thing that user code is made of. The tests load it in ways in which
a fresh interpreter does not find it, so nothing in it may be imported by name."""

import collections
import dataclasses
import enum
import functools
import sys
import threading
from typing import Any, Generic, NamedTuple, NewType, ParamSpec, Protocol, TypedDict, TypeVar, runtime_checkable

import pydantic

T = TypeVar("T")
P = ParamSpec("P")
UserId = NewType("UserId", int)


@functools.lru_cache(maxsize=50)
def fibonacci(number: int) -> int:
    return number if number < 2 else fibonacci(number - 1) + fibonacci(number - 2)


def cached() -> Any:
    return fibonacci(30), fibonacci.cache_info().misses, fibonacci.cache_parameters()["maxsize"], fibonacci.__name__


class Cached:
    @functools.cached_property
    def once(self) -> int:
        return 5

    @functools.lru_cache  # noqa: B019
    def method(self, value: int) -> int:
        return value

    @staticmethod
    @functools.cache
    def static(value: int) -> int:
        return value

    @classmethod
    @functools.cache
    def of_class(cls, value: int) -> str:
        return f"{cls.__name__} {value}"


def cached_methods() -> Any:
    thing = Cached()
    return thing.once, thing.method(3), Cached.static(4), Cached.of_class(5)


@functools.singledispatch
def describe(value: Any) -> Any:
    return "something"


@describe.register
def _(value: int) -> Any:
    return "a number"


@describe.register(list)
def _(value: list[Any]) -> Any:
    return [describe(member) for member in value]


class Describes:
    @functools.singledispatchmethod
    def of(self, value: Any) -> str:
        return "something"

    @of.register
    def _(self, value: int) -> str:
        return "a number"


def generic_functions() -> Any:
    return describe([1, "a", [2]]), Describes().of(1), Describes().of("a"), describe.__name__


def doubled(function: Any) -> Any:
    @functools.wraps(function)
    def inner(*args: Any) -> Any:
        return 2 * function(*args)

    return inner


@doubled
def one(value: int) -> int:
    return value


three = functools.partial(one, 3)


def wrapped_functions() -> Any:
    return one(1), three(), one.__wrapped__(1), one.__name__


@dataclasses.dataclass(frozen=True)
class Point:
    x: int = 1
    tags: list[str] = dataclasses.field(default_factory=list)


class Color(enum.Enum):
    RED = 1
    BLUE = enum.auto()


class Flags(enum.IntFlag):
    A = 1
    B = 2


Pair = collections.namedtuple("Pair", "left right")


class Named(NamedTuple):
    name: str
    number: int = 7


class Options(TypedDict, total=False):
    limit: int


class Item(pydantic.BaseModel):
    price: int = 1
    tags: list[str] = pydantic.Field(default_factory=list)


class Order(pydantic.BaseModel):
    item: Item
    color: Color = Color.RED


def records() -> Any:
    @dataclasses.dataclass(frozen=True)
    class Point3(Point):
        z: int = 3

    fields = [field.name for field in dataclasses.fields(Point)]
    pair = Pair(1, 2)
    order = Order.model_validate({"item": {"price": "7"}})
    return dataclasses.asdict(Point3()), fields, tuple(pair), Named("a")._asdict(), Options(limit=3), order.item.price


def enums() -> Any:
    return Color(2).name, Color.RED is Color["RED"], (Flags.A | Flags.B).value


@runtime_checkable
class Closable(Protocol):
    def close(self) -> None: ...


class Box(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value


def types_of_typing() -> Any:
    return isinstance(threading.Thread(), Closable), Box[int](3).value, UserId(4), T.__name__, P.__name__


this = sys.modules.get(__name__)


def through_the_module() -> Any:
    """What mentions the whole module takes all of it."""
    return this.three() if this is not None else 6  # type: ignore[attr-defined]


class Refused(Exception):
    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def raises(request: Any) -> None:
    raise Refused("as always")


EXPECTED = {
    cached: (832040, 31, 50, "fibonacci"),
    cached_methods: (5, 3, 4, "Cached 5"),
    generic_functions: (["a number", "something", ["a number"]], "a number", "something", "describe"),
    wrapped_functions: (2, 6, 1, "one"),
    records: (
        {"x": 1, "tags": [], "z": 3},
        ["x", "tags"],
        (1, 2),
        {"name": "a", "number": 7},
        {"limit": 3},
        7,
    ),
    enums: ("BLUE", True, 3),
    types_of_typing: (False, 3, 4, "T", "P"),
    through_the_module: 6,
}
