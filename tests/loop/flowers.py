"""Typed models for tests. Their annotations are text, as they are in most modules of users."""

from __future__ import annotations

import dataclasses
import enum
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, field_validator

import pointsman as serve


class Colour(enum.Enum):
    red = "red"
    blue = "blue"


class Petal(BaseModel):
    width: float
    colour: Colour = Colour.red


class Flower(BaseModel):
    sepal: float
    petals: list[Petal] = []

    @field_validator("sepal")
    @classmethod
    def grows(cls, value: float) -> float:
        if value < 0:
            raise ValueError("no flower is that small")
        return value


class Guess(BaseModel):
    label: str
    score: float


@dataclasses.dataclass
class Pot:
    size: int
    inner: list[Pot] = dataclasses.field(default_factory=list)


class Leaf(msgspec.Struct):
    length: int
    veins: list[Leaf] = []
    edge: Literal["smooth", "rough"] = "smooth"


class Soil(typing.TypedDict):
    ph: float


class Ground(typing.TypedDict):
    soil: Soil


class Garden(Ground, total=False):
    name: str


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]
    age: int


SEEN: list[Any] = []


class Model:
    """Guesses.

    By the length of what it gets."""

    def __call__(self, flower: Flower, top: int = 3, tags: list[str] = []) -> Guess:  # noqa: B006 - never changed
        SEEN.append(flower)
        return {"label": f"{type(flower).__name__} {top} {tags}", "score": flower.sepal, "secret": 1}  # type: ignore[return-value]


def pot(pot: Pot) -> Pot:
    return pot


def leaf(leaf: Leaf) -> Leaf:
    return leaf


def garden(garden: Garden) -> Garden:
    return garden


def array(values: npt.NDArray[np.float32]) -> np.ndarray[Any, Any]:
    return values * 2


def whole_numbers(values: npt.NDArray[np.int64]) -> str:
    return str(values.dtype)


def several_arrays(arrays: dict[str, npt.NDArray[np.float32]]) -> list[Any]:
    return [arrays, *{str(array.dtype) for array in arrays.values()}]


def maybe_array(values: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.int64]:
    return np.array([0 if values is None else values.size])


def small_numbers(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return values


def some_numbers(values: npt.NDArray[np.floating[Any]]) -> str:
    return str(values.dtype)


def flowers(flowers: list[Flower]) -> int:
    return len(flowers)


def both(flowers: list[Flower], top: int) -> int:
    return len(flowers) + top


def named(flowers: dict[str, Flower]) -> list[str]:
    return sorted(flowers)


def either(pet: Annotated[Cat | Dog, Field(discriminator="kind")]) -> str:
    return type(pet).__name__


def mixed(thing: Flower | Leaf) -> str:
    return type(thing).__name__


def maybe(flower: Flower | None = None) -> str:
    return "none" if flower is None else "one"


async def asynchronous(flower: Flower, *, top: int) -> list[Any]:
    return [flower.sepal, top]


def with_request(flower: Flower, request: serve.Request) -> list[Any]:
    return [flower.sepal, request.headers["x-garden"], request.query_params["q"]]


def parts(flower: Flower, id: int, on: bool = False, colour: Colour = Colour.red) -> list[Any]:  # noqa: A002 - as users write it
    return [id, on, colour]


def upload(image: serve.File, top: int = 1) -> list[Any]:
    return [image.filename, image.content_type, image.read().decode(), top]


def uploads(images: list[serve.File]) -> list[str]:
    return [image.filename for image in images]


async def maybe_upload(image: serve.File | None = None) -> int:
    return -1 if image is None else image.size


class Batched:
    @serve.accept_batch
    def __call__(self, flowers: list[Flower], requests: list[serve.Request]) -> list[Guess]:
        SEEN.append(len(flowers))
        assert len(requests) == len(flowers)
        return [{"label": str(len(flowers)), "score": one.sepal} for one in flowers]  # type: ignore[misc]


@serve.accept_batch
async def batched_later(flowers: list[Flower]) -> list[Guess]:
    SEEN.append(len(flowers))
    return [Guess(label=str(len(flowers)), score=one.sepal) for one in flowers]


def untyped(request: dict[str, Any]) -> str:
    return type(request).__name__


def answers_only(request: serve.Request) -> Guess:
    return {"label": "x", "score": np.float32(0.5), "more": np.int64(1)}  # type: ignore[return-value]


def misfit_answer(flower: Flower) -> Guess:
    return {"label": "x", "score": "4567"[:0]}  # type: ignore[return-value]


def counts(flower: Flower) -> dict[str, int]:
    return {"n": np.int64(3)}  # type: ignore[dict-item]


def anything(flower: Flower) -> Any:
    return {"values": np.arange(2), "text": "x"}


def stream(flower: Flower) -> Iterator[str]:
    yield "a"
    yield "b"
