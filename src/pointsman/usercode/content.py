"""The content of a user's own modules: whether code that is sent by its name has changed since it was sent before.

The user's own are modules in folders that are given, but for those of Python, of installed packages and of Pointsman.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.util import cache_from_source
from pathlib import PurePath

from pointsman.usercode.findable import SCRIPTS, is_installed
from pointsman.usercode.paths import import_folders, working_folder

_OURS = ("pointsman", "pointsman__mypyc")
_PACKAGE_FOLDERS = frozenset(("site-packages", "dist-packages"))
#: In a larger pickle names are not looked for: all modules may be in it.
MAX_SEARCHED = 16 * 2**20
#: Import statements, also those within functions. What only looks like one costs a look for a file.
_IMPORT = re.compile(
    rb"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#;]+)|import[ \t]+([\w., \t]+))", re.MULTILINE
)
#: Names of modules that a source imports, by the digest of the source and the module's package.
_imports: dict[tuple[str, str], tuple[str, ...]] = {}


def loaded_files(folders: Sequence[str]) -> dict[str, str]:
    """The files of the modules that this process has loaded from folders of the user's, by module, scripts left out.

    Args:
        folders: absolute paths. Modules below them count as well.
    """
    inside = tuple(os.path.join(folder, "") for folder in own_folders_of(folders))
    files = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or name in SCRIPTS or name.partition(".")[0] in _OURS:
            continue
        path = os.path.abspath(file)
        if path.startswith(inside) and not _is_foreign(path):
            files[name] = path
    return files


def own_folders_of(folders: Iterable[str]) -> list[str]:
    """The folders that are neither Python's nor those of installed packages."""
    absolute = dict.fromkeys(map(os.path.abspath, folders))
    return [folder for folder in absolute if not _is_foreign(os.path.join(folder, "module"))]


def content_digest(files: Mapping[str, str]) -> str:
    """A digest of the content of files, by module; empty if there are none. Folders do not count, so that a project may
    be moved."""
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0{hashlib.sha256(_read(path)).hexdigest()}\n".encode())
    return digest.hexdigest() if files else ""


def content_of(blob: bytes, folders: Sequence[str], path: str = "") -> str:
    """The digest for code that this process has packed, and that is not imported on trial.

    What its import loads is not known here. So all modules of the user's count that this process has loaded, and all
    that these import, if the code refers to one of them.

    Args:
        blob: the packed code.
        folders: first entries of the import path of its replicas, beside this process's import path.
        path: import path of the code; empty if it is sent by value.
    """
    places = own_folders_of([*folders, working_folder(), *import_folders()])
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    files = {**loaded_files(places), **_found(path.partition(":")[0], places)}
    files = _with_imports(files, {"__main__": os.path.abspath(script)} if script else {}, places)
    if len(blob) <= MAX_SEARCHED and not any(name.encode() in blob for name in files):
        return ""
    drop_old_bytecode(files)
    return content_digest(files)


def drop_old_bytecode(files: Mapping[str, str]) -> None:
    """Remove compiled code that may be older than its file.

    Python takes compiled code for that of a file with the same size, saved in the same second. So what was compiled in
    the second in which its file was saved says nothing of what was saved in the rest of that second.
    """
    for path in files.values():
        if not path.endswith(".py"):
            continue
        compiled = cache_from_source(path)
        try:
            if int(os.stat(compiled).st_mtime) <= int(os.stat(path).st_mtime):
                os.unlink(compiled)
        except OSError:  # there is none, or the folder is not ours to write to: nor have we written it, then
            continue


def _with_imports(files: dict[str, str], scripts: dict[str, str], folders: Sequence[str]) -> dict[str, str]:
    """The files, and those of modules that they or the scripts import, at once or later."""
    known, due, names = dict(files), {**files, **scripts}, set(files)
    while due:
        imported: set[str] = set()
        for module, path in due.items():
            if path.endswith(".py"):
                package = module if path.endswith("__init__.py") else module.rpartition(".")[0]
                imported.update(_imports_of(_read(path), package))
        due = {}
        for name in imported - names:
            due |= {module: path for module, path in _found(name, folders).items() if module not in known}
        names |= imported
        known |= due
    return known


def _imports_of(source: bytes, package: str) -> tuple[str, ...]:
    key = (hashlib.sha256(source).hexdigest(), package)
    if key not in _imports:
        _imports[key] = tuple(dict.fromkeys(_names_in(source, package)))
    return _imports[key]


def _names_in(source: bytes, package: str) -> Iterator[str]:
    for origin, names, modules in _IMPORT.findall(source):
        words = [part.split()[0].decode() for part in (modules or names.strip(b"()")).split(b",") if part.split()]
        if modules:
            yield from words
            continue
        base = origin.decode().lstrip(".")
        level = len(origin) - len(base.encode())
        if level:
            above = package.split(".")[: len(package.split(".")) - level + 1]
            base = ".".join(filter(None, (*above, base)))
        yield base
        yield from (f"{base}.{word}" for word in words)


def _found(name: str, folders: Sequence[str]) -> dict[str, str]:
    """The files of a module and of the packages above it, if it is in one of the folders."""
    parts = name.split(".")
    if parts[0] in _OURS or parts[0] in sys.stdlib_module_names or not all(map(str.isidentifier, parts)):
        return {}
    for folder in folders:
        files = {}
        for count in range(1, len(parts) + 1):
            stem = os.path.join(folder, *parts[:count])
            file = next((path for path in (f"{stem}.py", f"{stem}/__init__.py") if os.path.isfile(path)), None)
            if file is not None:
                files[".".join(parts[:count])] = file
        if files:
            return files
    return {}


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # it was removed since it was loaded, or is in a zip file
        return b""


def _is_foreign(path: str) -> bool:
    return not _PACKAGE_FOLDERS.isdisjoint(PurePath(path).parts) or is_installed(path)
