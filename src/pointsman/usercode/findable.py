"""Decides which modules another process can import by name: a fresh interpreter with this environment and import path.

``sys.modules`` of this process also has modules that a fresh interpreter does not find: the script itself, modules that
were made in code or loaded from a path, and modules under the name of another file. Decision 0049.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import types
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder
from typing import Any

#: Names of scripts, which are others in each process. ``multiprocessing`` gives its parent's script the second name.
SCRIPTS = ("__main__", "__mp_main__")

#: Results by name, each with the module that it is about: another module of that name needs a new result.
_cache: dict[str, tuple[Any, bool]] = {}
#: The import path for which the results are valid.
_cached_path: tuple[str, ...] = ()


def is_findable(name: str, folders: Sequence[str] = ()) -> bool:
    """Whether another process that imports this name gets the module that has it here.

    Args:
        folders: the first entries of that process's import path. A module found there counts, whatever is loaded here.
    """
    global _cached_path
    if folders and name not in SCRIPTS and _find(name, list(folders)) is not None:
        return True
    path = tuple(sys.path)
    if path != _cached_path:
        _cache.clear()
        _cached_path = path
    module = sys.modules.get(name)
    known = _cache.get(name)
    if known is None or known[0] is not module:
        known = _cache[name] = (module, _is_found_here(name, module))
    return known[1]


def _is_found_here(name: str, module: Any) -> bool:
    if name in SCRIPTS:
        return False
    parent, _, _ = name.rpartition(".")
    if parent and not is_findable(parent):
        return False
    spec = _find(name, None)
    if spec is not None and (module is None or _is_from(module, spec)):
        return True
    real = getattr(getattr(module, "__spec__", None), "name", name)
    if parent and real != name:  # an alias that the package has set, as for collections.abc
        return is_findable(real)
    if spec is None or spec.loader is None:  # not found, or only a folder of that name
        return bool(parent) and module is not None and _is_made_by(sys.modules.get(parent), module)
    # Another file of that name comes first now. Some packages put their own copy of another package on the path, as Ray
    # does with psutil; an installed module is then trusted.
    return is_installed(_file_of(module))


def _find(name: str, path: list[str] | None) -> ModuleSpec | None:
    """The spec with which a fresh interpreter finds a module on ``path``; None is this process's import path."""
    finders = _finders() if path is None else iter((PathFinder,))
    parent, _, _ = name.rpartition(".")
    if parent:
        above = _find(parent, path)
        if above is None:
            return None
        loaded = sys.modules.get(parent)
        own_path = getattr(loaded, "__path__", None)
        if path is None and above.loader is not None and own_path is not None:
            path = list(own_path)  # the package's own code may have changed it, as it will in the other process
        elif above.submodule_search_locations is None:
            return None
        else:
            path = list(above.submodule_search_locations)
    specs = (_find_spec(finder, name, path) for finder in finders)
    return next((spec for spec in specs if spec is not None), None)


def _find_spec(finder: Any, name: str, path: list[str] | None) -> ModuleSpec | None:
    try:
        found: ModuleSpec | None = finder.find_spec(name, path)
    except (ImportError, AttributeError, KeyError, ValueError):
        return None  # an old finder without find_spec, or a name that it cannot handle, as of an unloaded package
    return found


def _finders() -> Iterator[Any]:
    """The finders of ``sys.meta_path`` that other processes have too: those of Python and of installed packages, as for
    editable installations. A finder that this program has added is left out."""
    for finder in sys.meta_path:
        if finder in (BuiltinImporter, FrozenImporter, PathFinder):
            yield finder
            continue
        kind = finder if isinstance(finder, type) else type(finder)
        if is_installed(_file_of(sys.modules.get(kind.__module__))):
            yield finder


def is_installed(file: str | None) -> bool:
    """Whether a file belongs to Python or to an installed package."""
    return file is not None and os.path.realpath(file).startswith(_installed_folders())


@cache
def _installed_folders() -> tuple[str, ...]:
    folders = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(os.path.realpath(folder) + os.sep for folder in folders)


def _is_from(module: Any, spec: ModuleSpec) -> bool:
    """Whether a loaded module is the one that a spec describes."""
    file = _file_of(module)
    if spec.loader is None:  # a namespace package
        return file is None and hasattr(module, "__path__")
    if spec.origin is None:  # a special finder, whose specs cannot be compared
        return True
    origin = getattr(getattr(module, "__spec__", None), "origin", None) or file
    if origin is not None:
        return bool(origin == spec.origin) or os.path.realpath(origin) == os.path.realpath(spec.origin)
    # The object has no origin: its module replaced itself in sys.modules on import, or it was made elsewhere.
    return (type(module) is not types.ModuleType or _has_code(module)) and _has_code_below(module, spec.origin)


def _is_made_by(parent: Any, module: Any) -> bool:
    """Whether a package makes a module on import that no finder knows. C extensions often do; in Python such a module
    has no file, as ``six.moves``."""
    file, above = _file_of(module), _file_of(parent)
    if file is not None and os.path.isabs(file) and file != above:
        return False
    return above is None or _has_code_below(module, above)


def _file_of(module: Any) -> str | None:
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) else None


def _code_of(module: Any) -> Iterator[str]:
    """Files of the Python functions, and of the methods of classes, that a module defines."""
    members = list(getattr(module, "__dict__", {}).values())
    members += [value for member in members if isinstance(member, type) for value in vars(member).values()]
    name = getattr(module, "__name__", None)
    for member in members:
        if isinstance(member, types.FunctionType) and member.__module__ == name:
            yield member.__code__.co_filename


def _has_code(module: Any) -> bool:
    return next(_code_of(module), None) is not None


def _has_code_below(module: Any, file: str) -> bool:
    """Whether all code of a module is from the folder of a file."""
    folder = os.path.realpath(os.path.dirname(file)) + os.sep
    return all(os.path.realpath(path).startswith(folder) for path in _code_of(module))
