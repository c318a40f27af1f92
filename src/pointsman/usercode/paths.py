"""How this process finds modules, and how those that it starts shall find them."""

from __future__ import annotations

import functools
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

PACKAGE = os.path.dirname(os.path.abspath(__file__))
PATH_VARIABLE = "PYTHONPATH"
ASK_TIMEOUT_S = 10.0


def python_path() -> str:
    """``PYTHONPATH`` for children that run this very interpreter, so that they find this very package."""
    known = os.environ.get(PATH_VARIABLE, "")
    parent = os.path.dirname(PACKAGE)
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages()}
    if parent in installed or parent in known.split(os.pathsep):
        return known  # site-packages on PYTHONPATH would come before the standard library
    return os.pathsep.join([parent, *([known] if known else [])])


def working_folder() -> str:
    """This process's working folder; ``/``, with a warning, where that was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        _warn_of_removal()
        return "/"


@functools.cache
def _warn_of_removal() -> None:
    """Once in this process."""
    log.warning("the working directory of this process was removed; user code works in / instead")


def import_folders() -> tuple[str, ...]:
    """This process's import path, absolute. In a working folder that was removed nothing can be found, so what is
    relative to it is left out."""
    try:
        return tuple(os.path.abspath(entry) for entry in sys.path)
    except FileNotFoundError:
        return tuple(entry for entry in sys.path if os.path.isabs(entry))


def absolute(path: str | os.PathLike[str], what: str) -> str:
    """A path that stays right in other processes.

    Args:
        what: its name in the error's text.

    Raises:
        ValueError: it is empty; or relative, and the working folder was removed.
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


def given_sys_path() -> tuple[str, ...]:
    """The part of this process's import path that its user has added, by the script's folder, by ``PYTHONPATH`` or in
    code. The rest belongs to this environment: to another one it would bring the wrong packages."""
    own = _bare_sys_path(sys.executable)
    return tuple(entry for entry in import_folders() if entry not in own)


@functools.cache
def _bare_sys_path(python: str) -> frozenset[str]:
    """The import path of an interpreter that nobody has added to; paths of ``.pth`` files are in it."""
    variables = {name: value for name, value in os.environ.items() if name != PATH_VARIABLE}
    done = subprocess.run(
        [python, "-c", "import json, sys; print('\\n' + json.dumps(sys.path[1:]))"],
        cwd="/",
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=ASK_TIMEOUT_S,
    )
    return frozenset(map(os.path.abspath, json.loads(done.stdout.splitlines()[-1])))


def enter(origin: Origin) -> None:
    """Find modules as the process that shipped the code, and work in its folder.

    Raises:
        OSError: the folder cannot be entered; the import path is set all the same.
    """
    sys.path[:] = list(dict.fromkeys([*origin.sys_path, *sys.path]))
    os.chdir(origin.cwd)


def refuse_world_writable(path: str | os.PathLike[str], what: str) -> None:
    """Refuse a file or folder of code that everyone on the machine may change.

    Args:
        what: its name at the start of the error's text.

    Raises:
        ValueError: everyone may write to it.
    """
    if os.stat(path).st_mode & stat.S_IWOTH:
        raise ValueError(f"{what} is refused: everyone may write to {os.fspath(path)}")
