"""What an annotation is made of. Classes of libraries are known by their marks: nothing is imported to look at one."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Union

import msgspec

PYDANTIC, DATACLASS, STRUCT, TYPED_DICT, ARRAY, OTHER = (
    "pydantic",
    "dataclass",
    "struct",
    "typed dict",
    "array",
    "other",
)
MODELS = frozenset((PYDANTIC, DATACLASS, STRUCT, TYPED_DICT, ARRAY))
MAX_ALIASES, MAX_DEPTH = 20, 20
_ALIASES: Any = getattr(typing, "TypeAliasType", ())
_UNIONS: tuple[Any, ...] = (Union, types.UnionType)


def is_class(annotation: Any) -> bool:
    """Whether an annotation is a class: in Python 3.10 ``list[int]`` passes for one."""
    return isinstance(annotation, type) and typing.get_origin(annotation) is None


def named(annotation: Any) -> Any:
    """What an alias stands for: ``type Flowers = list[Flower]``, or numpy's ``NDArray[float32]``; else the annotation
    itself."""
    for _ in range(MAX_ALIASES):
        origin = typing.get_origin(annotation)
        if isinstance(annotation, _ALIASES):
            annotation = annotation.__value__
        elif isinstance(origin, _ALIASES):
            annotation = origin.__value__[typing.get_args(annotation)]
        else:
            break
    return annotation


def is_typed(annotation: Any) -> bool:
    """Whether a parameter with this annotation gets the decoded body: it is a model, or a container or union of one."""
    return any(kind in MODELS for kind in leaves(annotation))


def leaves(annotation: Any) -> Iterator[str]:
    """The kinds of all that an annotation is made of."""
    found: list[str] = []
    mapped(annotation, lambda leaf: found.append(kind_of(leaf)) or leaf)  # type: ignore[func-returns-value]
    return iter(found)


def kind_of(annotation: Any) -> str:
    """The kind of an annotation that is no container."""
    annotation = named(annotation)
    if array_class(annotation) is not None:
        return ARRAY
    cls = typing.get_origin(annotation) or annotation
    if not isinstance(cls, type):
        return OTHER
    if issubclass(cls, msgspec.Struct):
        return STRUCT
    pydantic = sys.modules.get("pydantic.main")
    if pydantic is not None and issubclass(cls, pydantic.BaseModel):
        return PYDANTIC
    if issubclass(cls, dict) and hasattr(cls, "__required_keys__"):
        return TYPED_DICT
    return DATACLASS if dataclasses.is_dataclass(cls) else OTHER


def array_class(annotation: Any) -> Any:
    """``numpy.ndarray`` if the annotation is that, with or without a type of elements; else None."""
    annotation = named(annotation)
    numpy = sys.modules.get("numpy")
    cls = typing.get_origin(annotation) or annotation
    return cls if numpy is not None and cls is getattr(numpy, "ndarray", None) else None


def element_type(annotation: Any) -> Any:
    """The type of the elements of an array: a dtype, an abstract class of numpy such as ``floating``; None for any."""
    import numpy as np

    arguments = typing.get_args(named(annotation))
    scalars = typing.get_args(arguments[-1]) if arguments else ()
    scalar: Any = typing.get_origin(scalars[0]) or scalars[0] if scalars else None
    if not is_class(scalar) or not issubclass(scalar, np.generic) or scalar is np.generic:
        return None
    return scalar if scalar.__name__ in _ABSTRACT else np.dtype(scalar)


_ABSTRACT = frozenset(("number", "integer", "signedinteger", "unsignedinteger", "inexact", "floating",
                       "complexfloating", "flexible", "character"))  # fmt: skip


def without_none(annotation: Any) -> Any:
    """What else than None a union with None is of, if that is one thing; any other annotation as it is."""
    if typing.get_origin(annotation) in _UNIONS:
        others = [part for part in typing.get_args(annotation) if part is not type(None)]
        return others[0] if len(others) == 1 else annotation
    return annotation


def mapped(annotation: Any, change: Callable[[Any], Any], *, depth: int = 0) -> Any:
    """An annotation with all its leaves changed. An alias may refer to itself: what lies deep stays as it is."""
    if depth > MAX_DEPTH:
        return annotation
    annotation = named(annotation)
    parts = _parts(annotation)
    if not parts:
        return change(annotation)
    changed = tuple(mapped(part, change, depth=depth + 1) for part in parts)
    if all(new is old for new, old in zip(changed, parts, strict=True)):
        return annotation
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        made: Any = Annotated
        parts = (changed[0], *annotation.__metadata__)
        return made[parts]
    make: Any = Union if origin in _UNIONS else origin
    return make[changed if len(changed) > 1 else changed[0]]


def _parts(annotation: Any) -> tuple[Any, ...]:
    """What a container, a union or an ``Annotated`` is made of; empty for anything else."""
    origin: Any = typing.get_origin(annotation)
    if origin is Annotated:
        return (annotation.__origin__,)
    if origin in _UNIONS or origin in _CONTAINERS:
        return tuple(part for part in typing.get_args(annotation))
    return ()


_CONTAINERS = frozenset((list, dict, tuple, set, frozenset))


def name_of(annotation: Any) -> str:
    """An annotation for error texts."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "")[:200]


def modern_typed_dict(cls: Any) -> Any:
    """A typed dict that pydantic takes: before Python 3.12 it knows only those of typing_extensions."""
    if sys.version_info >= (3, 12) or type(cls).__module__ != "typing":
        return cls
    import typing_extensions as extensions

    hints = extensions.get_type_hints(cls, include_extras=True)
    marks: dict[str, Any] = {}
    for name, hint in hints.items():
        mark: Any = extensions.get_origin(hint)
        if mark is extensions.Required or mark is extensions.NotRequired:
            hint = extensions.get_args(hint)[0]
        else:
            mark = extensions.Required if name in cls.__required_keys__ else extensions.NotRequired
        marks[name] = mark[mapped(hint, _modern)]
    make: Any = extensions.TypedDict
    return make(cls.__name__, marks)


def _modern(leaf: Any) -> Any:
    return modern_typed_dict(leaf) if kind_of(leaf) == TYPED_DICT else leaf
