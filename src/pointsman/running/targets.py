"""What ``TARGET`` of the command line names: a module and a name in it, a file, or a configuration file."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pydantic

from pointsman.arguments import nearest
from pointsman.usercode.annotations import is_typed_dict
from pointsman.usercode.callables import is_decorated
from pointsman.usercode.mounting import MARK, Mounted
from pointsman.usercode.packing import DEFAULT_METHOD, check_callable

CONFIG_SUFFIXES = (".yaml", ".yml", ".toml", ".json")
FORMS = "module:Name, file.py, file.py:Name, or a configuration file (.yaml, .toml, .json)"
_DATA = (pydantic.BaseModel, msgspec.Struct, enum.Enum, BaseException, tuple)


class TargetError(ValueError):
    """A target that names nothing that can be served. The author of the command line is at fault."""


class Target(NamedTuple):
    """Code that a target names.

    Attributes:
        module: its name.
        name: of the object in it; empty for the only one.
        folder: first on the import path, absolute; its files are watched.
        file: absolute path of the file, if one was named; else empty.
    """

    module: str
    name: str
    folder: str
    file: str = ""

    @property
    def shown(self) -> str:
        """The module, as its user calls it."""
        return self.file or self.module


def is_config_file(text: str) -> bool:
    """Whether a target is a configuration file."""
    return text.endswith(CONFIG_SUFFIXES)


def parse_target(text: str, folder: Path) -> Target:
    """The code that a target names. Imports nothing.

    Args:
        text: no configuration file.
        folder: the working folder.

    Raises:
        TargetError: it names nothing; the text says what would.
    """
    place, _, name = text.rpartition(":") if not text.endswith(".py") else (text, "", "")
    if name and not all(part.isidentifier() for part in name.split(".")):
        raise TargetError(f"{text!r} is no target: {name!r} cannot be the name of an object; give {FORMS}")
    if place.endswith(".py"):
        return _of_file(folder / place, name)
    if not name or not all(part.isidentifier() for part in place.split(".")):
        raise TargetError(f"{text!r} is no target; give {FORMS}{_meant(text) if not place else ''}")
    return Target(place, name, str(folder))


def _meant(text: str) -> str:
    """What a target without a colon and without a suffix may have been meant to be, as the end of a sentence."""
    if not all(part.isidentifier() for part in text.split(".")):
        return ""
    module, _, name = text.rpartition(".")
    if module and name[0].isupper():
        return f"; did you mean '{module}:{name}'?"
    return f"; a class or function Name of module {text!r} is '{text}:Name'"


def _of_file(path: Path, name: str) -> Target:
    path = path.absolute()
    if not path.is_file():
        raise TargetError(f"there is no file {str(path)!r}")
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file() and folder.parent != folder:  # it may import its siblings as a package
        parts.append(folder.name)
        folder = folder.parent
    if not all(part.isidentifier() for part in parts):
        raise TargetError(f"{path.name!r} cannot be imported: give it a name of letters, digits and _")
    return Target(".".join(reversed(parts)), name, str(folder), str(path))


def find_object(module: types.ModuleType, target: Target) -> tuple[str, Any]:
    """The object that a target names, and its name.

    Raises:
        TargetError: the module has none of that name; or no name was given, and it has none to serve, or several.
    """
    if not target.name:
        return _only_one(module, target)
    found: Any = module
    for part in target.name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            known = sorted(name for name in vars(found) if not name.startswith("_")) if found is module else []
            raise TargetError(f"{target.shown!r} has no {target.name!r}{nearest(part, known)}") from None
    return target.name, found


def _only_one(module: types.ModuleType, target: Target) -> tuple[str, Any]:
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    found = {name: value for name, value in public.items() if is_app(value) or _is_own(value, module, name)}
    apps = {name: value for name, value in found.items() if is_app(value)}
    of_classes = [id(getattr(value, MARK, None)) for value in found.values() if isinstance(value, type)]
    if apps:  # the functions beside an app are its routes and their helpers
        found = {name: value for name, value in found.items() if name in apps or isinstance(value, type)}
        found = {name: value for name, value in found.items() if id(value) not in of_classes}
    if len(found) == 1:
        return next(iter(found.items()))
    if not found:
        classes = [n for n, v in public.items() if isinstance(v, type) and v.__module__ == module.__name__]
        why = f"; without a method '__call__(self, request)': {', '.join(classes)}" if classes else ""
        raise TargetError(f"{target.shown!r} defines no public class or function that can be served, and no app{why}")
    several = ", ".join(f"{target.shown}:{name}" for name in found)
    raise TargetError(f"{target.shown!r} defines several that can be served; say which: {several}")


def _is_own(value: Any, module: types.ModuleType, name: str) -> bool:
    """Whether a module has defined, under this name, a class or function that can be served."""
    if getattr(value, "__module__", None) != module.__name__ or getattr(value, "__name__", None) != name:
        return False
    if not isinstance(value, type):
        return isinstance(value, types.FunctionType) or is_decorated(value)
    try:
        check_callable(value)
    except TypeError:
        return getattr(value, MARK, None) is not None
    return DEFAULT_METHOD in vars(value) or not (
        issubclass(value, _DATA) or dataclasses.is_dataclass(value) or is_typed_dict(value)
    )


def is_app(value: Any) -> bool:
    """Whether an object is an ASGI app, or a backend that is one."""
    if isinstance(value, Mounted):
        return True
    if isinstance(value, types.FunctionType):
        return inspect.iscoroutinefunction(value) and list(inspect.signature(value).parameters) == _ASGI
    call = getattr(type(value), DEFAULT_METHOD, None)
    if isinstance(value, type) or not inspect.iscoroutinefunction(call):
        return False
    return list(inspect.signature(call).parameters)[1:] == _ASGI


_ASGI = ["scope", "receive", "send"]
