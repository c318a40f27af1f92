"""Where the code of a backend comes from, in words: import path, arguments, environment, git commit."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pointsman.backends import ImportedBackend
from pointsman.environments.kinds import Kind, env_form
from pointsman.limits import cut
from pointsman.usercode.byvalue import Pickler
from pointsman.usercode.mounting import Mounted

Code = Callable[..., Any] | type | ImportedBackend
#: Init args that take more as JSON are not kept in words: every status and every plan would carry them.
MAX_ARGS = 16 * 2**10
GIT_TIMEOUT_S = 2.0
_GIT_ARGUMENTS = (
    # Neither hooks nor a monitor of files, which are programs that a repository names, run for a look at it.
    "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false",
    "status", "--porcelain=v2", "--branch", "--untracked-files=normal", "--ignore-submodules=all", "-z",
)  # fmt: skip
COMMIT, NOT_YET = "# branch.oid ", "(initial)"


def import_path(code: Code, folders: Sequence[str] = ()) -> str:
    """``module:Name`` of code that is sent by its name; empty if it is sent by value.

    Args:
        folders: the first entries of the import path of its replicas.
    """
    if isinstance(code, ImportedBackend):
        return code.path if ":" in code.path else ":".join(code.path.rpartition(".")[::2])
    if isinstance(code, Mounted):
        return code.app if isinstance(code.app, str) else ""
    pickler = Pickler(io.BytesIO(), folders=folders)
    by_name = pickler.is_by_name(code)
    pickler.unmark()
    return f"{code.__module__}:{name_of(code)}" if by_name else ""


def name_of(code: Code) -> str:
    """The qualified name of code, the same in each process: a ``repr`` often has an address in it."""
    if isinstance(code, ImportedBackend):
        return import_path(code).partition(":")[2]
    if isinstance(code, Mounted):
        return f"asgi({code.app if isinstance(code.app, str) else name_of(code.app)})"
    return cut(str(getattr(code, "__qualname__", type(code).__qualname__)))


def args_as_json(init_args: tuple[Any, ...]) -> bytes | None:
    """Init args as JSON; None if JSON would make others of them, or if they take more than 16 KiB."""
    try:
        text = json.dumps(init_args, ensure_ascii=False, allow_nan=False).encode()
        same = json.loads(text) == list(init_args)
    except (TypeError, ValueError, RecursionError):
        return None
    return text if same and len(text) <= MAX_ARGS else None


def env_as_json(env: Kind | None) -> bytes:
    """An environment as a configuration file has it."""
    return json.dumps(env_form(env)).encode()


def commit_of(folder: str) -> str:
    """The commit of the git repository that a folder is in, with ``+`` behind it if any file is changed or new there.

    Empty if the folder is in no repository, or in one of another user; if there is no git, or git does not answer
    within two seconds.
    """
    if not _is_in_own_repository(folder):
        return ""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(
            ["git", "-C", folder, *_GIT_ARGUMENTS],
            env={**variables, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = answer.stdout.decode(errors="replace").split("\0")
    commit = next((line[len(COMMIT) :] for line in lines if line.startswith(COMMIT)), NOT_YET)
    if answer.returncode or commit == NOT_YET:
        return ""
    return commit + ("+" if any(line and not line.startswith("#") for line in lines) else "")


def _is_in_own_repository(folder: str) -> bool:
    """Whether a folder is in a repository of this user. git looks at that too, from version 2.35.2 on."""
    try:
        path = Path(folder).resolve()
        found = next((one / ".git" for one in (path, *path.parents) if (one / ".git").exists()), None)
        return found is not None and found.stat().st_uid == os.getuid()
    except OSError:
        return False
