"""Which modules another process finds by name: a fresh interpreter of this environment, with this one's import path.

It has run nothing of what ran here. The script itself, a module that was made in code or loaded from a path, and one
that stands in the place of another file's are in ``sys.modules`` here, and are not what is found there.
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

SCRIPTS = ("__main__", "__mp_main__")
"""Each process has its own. The second is what ``multiprocessing`` calls its parent's script."""

_answers: dict[str, tuple[Any, bool]] = {}
"""By name: the module as it was when it was asked about, and the answer."""
_path_of_answers: tuple[str, ...] = ()


def is_findable(name: str, folders: Sequence[str] = ()) -> bool:
    """Whether another process finds the module that has this name here.

    Args:
        folders: come first in its import path. What is there counts, whatever is loaded here.
    """
    global _path_of_answers
    if folders and name not in SCRIPTS and _find(name, list(folders)) is not None:
        return True
    path = tuple(sys.path)
    if path != _path_of_answers:
        _answers.clear()
        _path_of_answers = path
    module = sys.modules.get(name)
    known = _answers.get(name)
    if known is None or known[0] is not module:
        known = _answers[name] = (module, _is_found_here(name, module))
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
    if parent and real != name:  # a second name that the package has given it, as collections.abc
        return is_findable(real)
    if spec is None or spec.loader is None:  # nothing, or just a folder of that name
        return bool(parent) and module is not None and _is_made_by(sys.modules.get(parent), module)
    # Another of that name comes first by now. Some packages bring copies of others: one that is installed is meant.
    return _is_installed(_file_of(module))


def _find(name: str, path: list[str] | None) -> ModuleSpec | None:
    """How a fresh interpreter finds a module; ``path`` None is this process's, with its finders."""
    finders = _finders() if path is None else iter((PathFinder,))
    parent, _, _ = name.rpartition(".")
    if parent:
        above = _find(parent, path)
        if above is None:
            return None
        loaded = sys.modules.get(parent)
        own_path = getattr(loaded, "__path__", None)
        if path is None and above.loader is not None and own_path is not None:
            path = list(own_path)  # the package may have added to it, as it will do there
        elif above.submodule_search_locations is None:
            return None
        else:
            path = list(above.submodule_search_locations)
    specs = (_ask(finder, name, path) for finder in finders)
    return next((spec for spec in specs if spec is not None), None)


def _ask(finder: Any, name: str, path: list[str] | None) -> ModuleSpec | None:
    try:
        found: ModuleSpec | None = finder.find_spec(name, path)
    except (ImportError, AttributeError, KeyError, ValueError):
        return None  # a finder of the old kind, or a name that it cannot read, such as one below what is not loaded
    return found


def _finders() -> Iterator[Any]:
    """Those of ``sys.meta_path`` that other processes have: Python's own, and those of what is installed, such as of
    editable installations. One that this program has added is missing there."""
    for finder in sys.meta_path:
        if finder in (BuiltinImporter, FrozenImporter, PathFinder):
            yield finder
            continue
        kind = finder if isinstance(finder, type) else type(finder)
        if _is_installed(_file_of(sys.modules.get(kind.__module__))):
            yield finder


def _is_installed(file: str | None) -> bool:
    return file is not None and os.path.realpath(file).startswith(_installed_folders())


@cache
def _installed_folders() -> tuple[str, ...]:
    folders = {sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders |= {*site.getsitepackages(), site.getusersitepackages()}
    return tuple(os.path.realpath(folder) + os.sep for folder in folders)


def _is_from(module: Any, spec: ModuleSpec) -> bool:
    """Whether a loaded module is what a finder has found."""
    file = _file_of(module)
    if spec.loader is None:  # a package without a file, of folders only
        return file is None and hasattr(module, "__path__")
    if spec.origin is None:  # of a finder of their own, of which nothing can be said
        return True
    origin = getattr(getattr(module, "__spec__", None), "origin", None) or file
    if origin is not None:
        return bool(origin == spec.origin) or os.path.realpath(origin) == os.path.realpath(spec.origin)
    # It was put into its module's place as that was imported, or it was made elsewhere.
    return (type(module) is not types.ModuleType or _has_code(module)) and _has_code_below(module, spec.origin)


def _is_made_by(parent: Any, module: Any) -> bool:
    """Whether a package has made a module, which no finder knows, as it was imported. In C that is usual; in Python
    these are modules without a file, as ``six.moves``."""
    file, above = _file_of(module), _file_of(parent)
    if file is not None and os.path.isabs(file) and file != above:
        return False
    return above is None or _has_code_below(module, above)


def _file_of(module: Any) -> str | None:
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) else None


def _code_of(module: Any) -> Iterator[str]:
    """Files of the Python functions that a module has defined, and of its classes' methods."""
    members = list(getattr(module, "__dict__", {}).values())
    members += [value for member in members if isinstance(member, type) for value in vars(member).values()]
    name = getattr(module, "__name__", None)
    for member in members:
        if isinstance(member, types.FunctionType) and member.__module__ == name:
            yield member.__code__.co_filename


def _has_code(module: Any) -> bool:
    return next(_code_of(module), None) is not None


def _has_code_below(module: Any, file: str) -> bool:
    """Whether none of a module's code is from outside a file's folder."""
    folder = os.path.realpath(os.path.dirname(file)) + os.sep
    return all(os.path.realpath(path).startswith(folder) for path in _code_of(module))
