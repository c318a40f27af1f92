"""Annotations of user code, made real before the code travels.

``from __future__ import annotations`` leaves text in the place of types. A function that travels by value takes along
only the names that its code uses, and none that only its annotations do, so the client puts the types in their place
where a callable is typed. Classes of data that travel by value are treated alike.
"""

from __future__ import annotations

import builtins
import dataclasses
import sys
import types
import typing
from collections import ChainMap
from collections.abc import Mapping
from typing import Any

import msgspec

from pointsman.usercode import kinds

MAX_FRAMES = 30
"""How far up the stack names are looked for: a class may be local to the function that deploys it."""


def hints_of(function: Any) -> tuple[dict[str, Any], list[str]]:
    """The annotations of a function as types, and the names of those whose text cannot be made one."""
    function = getattr(function, "__func__", function)
    found, unknown = {}, []
    for name, annotation in dict(getattr(function, "__annotations__", None) or {}).items():
        if isinstance(annotation, str):
            try:
                annotation = _evaluated(annotation, function)
            except Exception:  # noqa: BLE001 - the text is user code: it names what is not there, or is no type
                unknown.append(name)
                continue
        found[name] = type(None) if annotation is None else kinds.named(annotation)
    return found, unknown


def settle(function: Any, hints: Mapping[str, Any]) -> None:
    """Put types in the place of texts, in a function and in the classes of data that its annotations name."""
    function = getattr(function, "__func__", function)
    annotations = getattr(function, "__annotations__", None)
    if annotations and any(isinstance(annotation, str) for annotation in annotations.values()):
        function.__annotations__ = {**annotations, **hints}
    seen: set[int] = set()
    for hint in hints.values():
        kinds.mapped(hint, lambda leaf: _settle_class(leaf, seen))


def _settle_class(leaf: Any, seen: set[int]) -> Any:
    cls = typing.get_origin(leaf) or leaf
    kind = kinds.kind_of(leaf)
    if kind not in (kinds.DATACLASS, kinds.TYPED_DICT, kinds.STRUCT) or id(cls) in seen:
        return leaf
    seen.add(id(cls))
    hints = _hints_of_class(cls)
    for base in cls.__mro__:
        own = vars(base).get("__annotations__")
        if own and any(isinstance(text, (str, typing.ForwardRef)) for text in own.values()):
            if base is not cls and kinds.kind_of(base) == kinds.OTHER:
                continue
            base.__annotations__ = {name: hints.get(name, text) for name, text in own.items()}
    if kind == kinds.DATACLASS:
        for field in dataclasses.fields(cls):
            field.type = hints.get(field.name, field.type)
    for hint in hints.values():
        kinds.mapped(hint, lambda inner: _settle_class(inner, seen))
    return leaf


def _hints_of_class(cls: type) -> dict[str, Any]:
    """All annotations of a class as types, those that cannot be resolved left out."""
    module = vars(sys.modules.get(cls.__module__, builtins))
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, annotation in dict(vars(base).get("__annotations__", {})).items():
            text: Any = getattr(annotation, "__forward_arg__", annotation)
            try:
                hints[name] = (
                    _value(text, module, {**_locals_of(module), cls.__name__: cls}) if _is_text(text) else text
                )
            except Exception:  # noqa: BLE001 - as above; whoever makes the class's schema says what is missing
                continue
    return hints


def _is_text(annotation: Any) -> bool:
    return isinstance(annotation, str)


def _evaluated(text: str, function: Any) -> Any:
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    names = getattr(function, "__globals__", {})
    return _value(text, names, _locals_of(names))


def _value(text: str, names: Mapping[str, Any], inner: Mapping[str, Any]) -> Any:
    class Holder:
        __annotations__ = {"it": text}

    return typing.get_type_hints(Holder, dict(names), dict(inner), include_extras=True)["it"]


def _locals_of(names: Mapping[str, Any]) -> Mapping[str, Any]:
    """Local names of the functions of a module that run now, the innermost first."""
    found: list[Mapping[str, Any]] = []
    frame: types.FrameType | None = sys._getframe()
    for _ in range(MAX_FRAMES):
        if frame is None:
            break
        if frame.f_globals is names and frame.f_locals is not names:
            found.append(frame.f_locals)
        frame = frame.f_back
    return dict(ChainMap(*map(dict, found))) if found else {}


# --- Structs by value -------------------------------------------------------------------------------------------------

_LEFT_OUT = frozenset(
    ("__annotations__", "__dict__", "__weakref__", "__slots__", "__module__", "__qualname__", "__doc__",
     "__match_args__", "__post_init__", "__struct_fields__", "__struct_config__", "__struct_defaults__",
     "__struct_encode_fields__", "__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__")
)  # fmt: skip
_CONFIG = ("frozen", "eq", "order", "array_like", "gc", "omit_defaults", "forbid_unknown_fields", "weakref", "dict",
           "cache_hash")  # fmt: skip


def reduce_struct(cls: Any) -> tuple[Any, ...]:
    """How a class of msgspec is pickled by value: its fields are in C, where cloudpickle does not see them."""
    defaults = cls.__struct_defaults__  # of the last fields
    without = len(cls.__struct_fields__) - len(defaults)
    every = zip(
        cls.__struct_fields__, cls.__struct_encode_fields__, [msgspec.NODEFAULT] * without + list(defaults), strict=True
    )
    own = vars(cls).get("__annotations__", {})
    fields = [(name, encode_name, *_default_of(default)) for name, encode_name, default in every if name in own]
    config = {name: getattr(cls.__struct_config__, name) for name in _CONFIG if hasattr(cls.__struct_config__, name)}
    config |= {"tag": cls.__struct_config__.tag, "tag_field": cls.__struct_config__.tag_field}
    config["kw_only"] = bool(own) and not set(own) & set(cls.__match_args__)
    members = {
        name: value for name, value in vars(cls).items() if name not in _LEFT_OUT and name not in cls.__struct_fields__
    }
    state = (_hints_of_class(cls), cls.__doc__, members, vars(cls).get("__post_init__"))
    made = (cls.__name__, cls.__qualname__, cls.__module__, cls.__bases__, fields, config, state[3] is not None)
    return _make_struct, made, state, None, None, _fill_struct


def _default_of(default: Any) -> tuple[str, Any]:
    if default is msgspec.NODEFAULT:
        return "", None
    is_factory = type(default).__module__.startswith("msgspec") and hasattr(default, "factory")
    return ("default_factory", default.factory) if is_factory else ("default", default)


def _make_struct(
    name: str,
    qualname: str,
    module: str,
    bases: tuple[type, ...],
    fields: list[Any],
    config: dict[str, Any],
    ends: bool,
) -> Any:
    namespace: dict[str, Any] = {"__post_init__": lambda self: self._pointsman_post_init()} if ends else {}
    typed: list[Any] = []
    for field, encode_name, kind, default in fields:
        options = {kind: default} if kind else {}
        typed.append((field, Any, msgspec.field(name=encode_name, **options)))
    cls: Any = msgspec.defstruct(name, typed, bases=bases, module=module, namespace=namespace, **config)
    cls.__qualname__ = qualname
    return cls


def _fill_struct(cls: Any, state: tuple[dict[str, Any], str | None, dict[str, Any], Any]) -> None:
    hints, doc, members, post_init = state
    cls.__annotations__ = {name: hints.get(name, Any) for name in cls.__annotations__}
    cls.__doc__ = doc
    for name, value in members.items():
        setattr(cls, name, value)
    if post_init is not None:
        cls._pointsman_post_init = post_init


# --- typed dicts by value ---------------------------------------------------------------------------------------------


def is_typed_dict(cls: Any) -> bool:
    """Whether it is a typed dict that :func:`reduce_typed_dict` takes: one without type parameters."""
    return isinstance(cls, type) and kinds.kind_of(cls) == kinds.TYPED_DICT and not getattr(cls, "__parameters__", ())


def reduce_typed_dict(cls: Any) -> tuple[Any, ...]:
    """How a typed dict is pickled by value: cloudpickle does not make again what inherits from another one."""
    hints = _hints_of_class(cls)
    made = (cls.__name__, cls.__qualname__, cls.__module__, tuple(hints), tuple(sorted(cls.__required_keys__)))
    return _make_typed_dict, made, (hints, cls.__doc__), None, None, _fill_typed_dict


def _make_typed_dict(name: str, qualname: str, module: str, keys: tuple[str, ...], required: tuple[str, ...]) -> Any:
    make: Any = typing.TypedDict
    cls = make(name, dict.fromkeys(keys, Any))
    cls.__qualname__, cls.__module__ = qualname, module
    cls.__required_keys__ = frozenset(required)
    cls.__optional_keys__ = frozenset(keys) - cls.__required_keys__
    return cls


def _fill_typed_dict(cls: Any, state: tuple[dict[str, Any], str | None]) -> None:
    cls.__annotations__, cls.__doc__ = state
