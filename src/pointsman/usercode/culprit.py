"""Finds the part of an object that cannot be pickled, and names it: a variable, an attribute, an argument."""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pointsman.usercode.byvalue import ByNameOnlyError, dumps
from pointsman.usercode.findable import is_findable

Part = tuple[str, Any]
#: How many parts one search tries to pickle.
MAX_TRIES = 500
#: How many levels a search descends; deeper names would not help.
MAX_DEPTH = 20


def explain(error: Exception, parts: Iterable[Part], folders: Sequence[str] = ()) -> str:
    """The end of an error message: which part of an object cannot be pickled, and why.

    Args:
        error: the exception that pickling the whole object has raised.
        parts: the named parts of the object.
        folders: the first entries of the import path of the processes that are to load it.
    """
    culprit, cause = _Search(folders).first(parts)
    error = cause or error
    text = " ".join(str(error).split())
    if isinstance(error, ByNameOnlyError):
        return f"{culprit}: {text}" if culprit else text
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if not culprit:
        return reason
    return f"{culprit} cannot be pickled ({reason}); make it in the constructor, or where it is first used"


class _Search:
    """Searches for the innermost part that has a name and cannot be pickled."""

    def __init__(self, folders: Sequence[str]) -> None:
        self._folders = folders
        self._seen: dict[int, Any] = {}
        self._tries = MAX_TRIES

    def first(self, parts: Iterable[Part], depth: int = 0) -> tuple[str, Exception | None]:
        """Name of the first culprit among parts, and the exception it raises; an empty name if there is none."""
        for label, value in parts:
            if id(value) in self._seen or self._tries <= 0:
                continue
            self._seen[id(value)] = value
            error = self._error_of(value)
            if error is None:
                continue
            endless = isinstance(value, (list, tuple, Mapping)) and "recursion" in str(error)
            if depth < MAX_DEPTH and not endless:
                inner = self.first(self._parts(label, value), depth + 1)
                if inner[0]:
                    return inner
            kind = type(value).__name__
            return (label if isinstance(value, (types.FunctionType, type)) else f"{label} (a {kind})"), error
        return "", None

    def _error_of(self, value: Any) -> Exception | None:
        self._tries -= 1
        try:
            dumps(value, folders=self._folders)
        except Exception as error:  # noqa: BLE001 - any failure to pickle is what is searched for
            return error
        return None

    def _parts(self, label: str, value: Any) -> Iterator[Part]:
        """The parts that a value's pickle holds by value, with the names that the user gave them."""
        if isinstance(value, (staticmethod, classmethod, types.MethodType)):
            value = value.__func__
        value = inspect.unwrap(value) if isinstance(value, functools._lru_cache_wrapper) else value
        if isinstance(value, types.FunctionType):
            yield from _parts_of_function(value)
        elif isinstance(value, property):
            accessors = ("fget", "fset", "fdel")
            yield from [(label, accessor) for name in accessors if (accessor := getattr(value, name)) is not None]
        elif isinstance(value, functools.cached_property):
            yield label, value.func
        elif isinstance(value, (functools.partial, functools.partialmethod)):
            yield f"the function of {label}", value.func
            yield from [(f"argument {number} of {label}", part) for number, part in enumerate(value.args)]
            yield from [(f"argument {name!r} of {label}", part) for name, part in value.keywords.items()]
        elif isinstance(value, type):
            name = value.__name__
            yield from [(f"base class {base.__name__} of {name}", base) for base in value.__bases__]
            members = [(f"attribute {key!r} of class {name}", part) for key, part in vars(value).items()]
            yield from [member for member in members if not isinstance(member[1], types.GetSetDescriptorType)]
        elif isinstance(value, types.ModuleType):
            yield from [(f"{key!r} of module {value.__name__}", part) for key, part in vars(value).items()]
        else:
            yield from self._parts_of_data(label, value)

    def _parts_of_data(self, label: str, value: Any) -> Iterator[Part]:
        if isinstance(value, Mapping):
            for key, part in value.items():
                yield f"key {key!r} of {label}", key
                yield f"item {key!r} of {label}", part
        elif isinstance(value, (list, tuple)):
            yield from [(f"item {index} of {label}", part) for index, part in enumerate(value)]
        elif isinstance(value, (set, frozenset)):
            yield from [(f"a member of {label}", part) for part in value]
        elif not is_findable(type(value).__module__, self._folders):  # the user did not name a library object's parts
            yield f"class {type(value).__name__}", type(value)
            attributes = getattr(value, "__dict__", {})
            yield from [(f"attribute {name!r} of {label}", part) for name, part in attributes.items()]


def _parts_of_function(function: types.FunctionType) -> Iterator[Part]:
    used = f"used by {function.__qualname__}"
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"variable {name!r} {used}", cell.cell_contents
        except ValueError:  # not bound yet
            continue
    for name in dict.fromkeys(_global_names(function.__code__)):
        if name in function.__globals__:
            yield f"variable {name!r} {used}", function.__globals__[name]
    defaults = function.__defaults__ or ()
    arguments = function.__code__.co_varnames[: function.__code__.co_argcount]
    named = [*zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True)]
    for name, value in [*named, *(function.__kwdefaults__ or {}).items()]:
        yield f"default of argument {name!r} of {function.__qualname__}", value
    for name, value in function.__annotations__.items():
        yield f"annotation of {name!r} of {function.__qualname__}", value
    for name, value in vars(function).items():
        yield f"attribute {name!r} of {function.__qualname__}", value


def _global_names(code: types.CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL"):
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)
