"""Values of types of their own, which user code of the tests answers with."""

from __future__ import annotations

import dataclasses

import pydantic


@dataclasses.dataclass
class Point:
    x: int
    y: object


class Model(pydantic.BaseModel):
    name: str
    values: list[float]
