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
    spec = _find(name, None)
    if spec is not None:
        return module is None or _is_from(module, spec)
    # No finder knows it. Some packages make modules as they are imported, most of them in C: torch._C._nn, six.moves.
    parent, _, _ = name.rpartition(".")
    if not parent or module is None or _file_of(module) is not None or not is_findable(parent):
        return False
    above = _find(parent, None)
    return above is None or above.origin is None or _is_made_below(module, os.path.dirname(above.origin))


def _find(name: str, path: list[str] | None) -> ModuleSpec | None:
    """How a fresh interpreter finds a module; ``path`` None is this process's, with its finders."""
    finders = _finders() if path is None else iter((PathFinder,))
    parent, _, _ = name.rpartition(".")
    if parent:
        above = _find(parent, path)
        if above is None or above.submodule_search_locations is None:
            return None
        loaded = sys.modules.get(parent)  # it may have added to its path, as it will do there
        same = above.origin is not None and loaded is not None and _is_from(loaded, above)
        path = list(getattr(loaded, "__path__", ()) if same else above.submodule_search_locations)
    for finder in finders:
        try:
            spec: ModuleSpec | None = finder.find_spec(name, path)
        except (ImportError, AttributeError, ValueError):  # a name that it cannot read, or a finder of the old kind
            continue
        if spec is not None:
            return spec
    return None


def _finders() -> Iterator[Any]:
    """Those of ``sys.meta_path`` that other processes have: Python's own, and those of what is installed, such as of
    editable installations. One that this program has added is missing there."""
    for finder in sys.meta_path:
        if finder in (BuiltinImporter, FrozenImporter, PathFinder):
            yield finder
            continue
        kind = finder if isinstance(finder, type) else type(finder)
        home = _file_of(sys.modules.get(kind.__module__))
        if home is not None and os.path.realpath(home).startswith(_installed()):
            yield finder


@cache
def _installed() -> tuple[str, ...]:
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages()}
    return tuple(os.path.realpath(folder) + os.sep for folder in folders)


def _is_from(module: Any, spec: ModuleSpec) -> bool:
    """Whether a loaded module is what a finder has found."""
    file = _file_of(module)
    if spec.origin is None:  # a package without a file, of folders only
        return file is None and hasattr(module, "__path__")
    origin = getattr(getattr(module, "__spec__", None), "origin", None) or file
    if origin is None:
        return _is_made_below(module, os.path.dirname(spec.origin))
    return bool(origin == spec.origin) or os.path.realpath(origin) == os.path.realpath(spec.origin)


def _file_of(module: Any) -> str | None:
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) else None


def _is_made_below(module: Any, folder: str) -> bool:
    """Whether a module without a file has no function from outside a folder; one of C functions has none at all."""
    members = list(getattr(module, "__dict__", {}).values())
    members += [value for member in members if isinstance(member, type) for value in vars(member).values()]
    name = getattr(module, "__name__", None)
    return all(
        os.path.realpath(member.__code__.co_filename).startswith(os.path.realpath(folder) + os.sep)
        for member in members
        if isinstance(member, types.FunctionType) and member.__module__ == name
    )
