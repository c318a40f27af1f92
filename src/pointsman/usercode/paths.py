"""Import paths and working folders: of this process, and for the processes that it starts."""

from __future__ import annotations

import functools
import glob
import json
import logging
import os
import site
import stat
import subprocess
import sys
import sysconfig
from pathlib import Path

from pointsman.model import Origin

log = logging.getLogger("pointsman")

#: The folder of the package pointsman, two levels above this file.
PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def parts_of(package: str) -> tuple[str, ...]:
    """A package's folder, and the code of its compiled modules, which lies beside it (decision 0057)."""
    beside = os.path.join(glob.escape(os.path.dirname(package)), "pointsman__mypyc.*")
    return (package, *sorted(glob.glob(beside)))


PACKAGE_PARTS = parts_of(PACKAGE)
PATH_VARIABLE = "PYTHONPATH"
PROBE_TIMEOUT_S = 10.0


def python_path() -> str:
    """``PYTHONPATH`` for child processes with this interpreter, so that they import the same pointsman."""
    known = os.environ.get(PATH_VARIABLE, "")
    parent = os.path.dirname(PACKAGE)
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages()}
    if parent in installed or parent in known.split(os.pathsep):
        return known  # site-packages on PYTHONPATH would come before the standard library
    return os.pathsep.join([parent, *([known] if known else [])])


def working_folder() -> str:
    """This process's working folder; ``/``, with a warning, if the folder was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        _warn_of_removal()
        return "/"


@functools.cache  # so that it warns once
def _warn_of_removal() -> None:
    log.warning("the working directory of this process was removed; user code works in / instead")


def import_folders() -> tuple[str, ...]:
    """This process's import path, with absolute entries. If the working folder was removed, relative entries are left
    out."""
    try:
        return tuple(os.path.abspath(entry) for entry in sys.path)
    except FileNotFoundError:
        return tuple(entry for entry in sys.path if os.path.isabs(entry))


def absolute(path: str | os.PathLike[str], what: str) -> str:
    """The absolute form of a path, for use in other processes.

    Args:
        what: the path's name in the error's text.

    Raises:
        ValueError: the path is empty; or it is relative, and the working folder was removed.
    """
    if not os.fspath(path):
        raise ValueError(f"{what} is empty; give the path of a folder or file")
    try:
        return str(Path(path).absolute())
    except FileNotFoundError:
        raise ValueError(
            f"{what} {os.fspath(path)!r} is relative, and the working directory of this process was removed;"
            " give an absolute path"
        ) from None


def added_sys_path() -> tuple[str, ...]:
    """The entries of this process's import path that the user has added: the script's folder, ``PYTHONPATH``, and what
    code has added. The other entries belong to this environment, and would bring the wrong packages to another."""
    own = _bare_sys_path(sys.executable)
    return tuple(entry for entry in import_folders() if entry not in own)


@functools.cache
def _bare_sys_path(python: str) -> frozenset[str]:
    """The import path of an interpreter without ``PYTHONPATH`` and script; entries of ``.pth`` files are in it."""
    variables = {name: value for name, value in os.environ.items() if name != PATH_VARIABLE}
    done = subprocess.run(
        [python, "-c", "import json, sys; print('\\n' + json.dumps(sys.path[1:]))"],
        cwd="/",
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=PROBE_TIMEOUT_S,
    )
    return frozenset(map(os.path.abspath, json.loads(done.stdout.splitlines()[-1])))


def enter(origin: Origin) -> None:
    """Set this process's import path and working folder to those of the process that sent the code.

    Raises:
        OSError: the folder cannot be entered; the import path is set nevertheless.
    """
    sys.path[:] = list(dict.fromkeys([*origin.sys_path, *sys.path]))
    os.chdir(origin.cwd)


def refuse_world_writable(path: str | os.PathLike[str], what: str) -> None:
    """Refuse a file or folder of code that everyone on the machine may write to.

    Args:
        what: name of the file or folder at the start of the error's text.

    Raises:
        ValueError: everyone may write to it.
    """
    if os.stat(path).st_mode & stat.S_IWOTH:
        raise ValueError(f"{what} is refused: everyone may write to {os.fspath(path)}")
