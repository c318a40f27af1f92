"""What entering an environment does to a process: its interpreter, its variables, its ``PATH``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from pointsman.environments import conda
from pointsman.environments.interpreter import last_words, run_bounded
from pointsman.model import Environment
from pointsman.usercode.paths import refuse_open

CONDA_VARIABLES = ("CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_SHLVL", "CONDA_PROMPT_MODIFIER", "CONDA_PREFIX_1")
ACTIVATE_TIMEOUT_S = 5.0
# The scripts are named by arguments, never by text of ours. What they print is no answer.
SOURCE_ALL = 'python=$1; dump=$2; shift 2; for script in "$@"; do . "$script"; done >&2; exec "$python" -I -c "$dump"'
DUMP = "import json, os; print(json.dumps(dict(os.environ)))"
_OF_SHELLS = frozenset(("_", "SHLVL", "PWD", "OLDPWD"))


def find_python(prefix: Path, shown: str) -> Path:
    """The interpreter of an environment in a folder that only its owner, or a group, may change.

    Raises:
        ValueError: there is none, or everyone may change it.
    """
    python = prefix / "bin" / "python"
    if not python.exists():
        why = "leads nowhere" if python.is_symlink() else "does not exist"
        raise ValueError(f"{shown} has no interpreter: {python} {why}")
    for path in (prefix, prefix / "bin", python, *prefix.glob("lib/python3*/site-packages")):
        refuse_open(path, shown)
    return python


def activated(name: str, prefix: Path) -> Environment:
    """A conda environment as a shell has it after ``conda activate``: what the scripts of packages set is part of it.

    An environment that is active in this process is left first, as conda does.

    Raises:
        ValueError: it has no interpreter, everyone may change it, or one of its scripts fails.
    """
    shown = f"conda environment {name!r}"
    python = str(find_python(prefix, shown))
    changed, gone = _changes(os.environ, _leave(python, shown))
    entered = {
        "CONDA_PREFIX": str(prefix),
        "CONDA_DEFAULT_ENV": name,
        "CONDA_SHLVL": "1",
        **conda.stored_variables(prefix),
    }
    environment = Environment(
        kind="conda",
        name=name,
        python=python,
        version="",
        variables={**changed, **entered},
        unset=("VIRTUAL_ENV", "PYTHONHOME", "CONDA_PROMPT_MODIFIER", "CONDA_PREFIX_1", *gone),
        path=(str(prefix / "bin"),),
    )
    before = environment.over(os.environ)
    after = _source(conda.scripts(prefix, "activate"), before, python, shown)
    return _with_changes(environment, before, after)


def _leave(python: str, shown: str) -> dict[str, str]:
    """This process's variables without those that its own conda environment has set."""
    variables = dict(os.environ)
    active = variables.get("CONDA_PREFIX")
    if not active:
        return variables
    for name in conda.stored_variables(Path(active)):
        variables.pop(name, None)
    return _source(conda.scripts(Path(active), "deactivate"), variables, python, shown)


def _source(scripts: list[str], variables: dict[str, str], python: str, shown: str) -> dict[str, str]:
    """Variables as they are after a shell has run scripts."""
    if not scripts:
        return variables
    shell = shutil.which("bash") or "/bin/sh"  # conda's scripts are written for bash and zsh, the most for any shell
    what = f"activating {shown}"
    command = [shell, "-c", SOURCE_ALL, "activate", python, DUMP, *scripts]
    ended = run_bounded(what, command, variables, timeout_s=ACTIVATE_TIMEOUT_S)
    try:
        return msgspec.json.decode(ended.stdout, type=dict[str, str])
    except msgspec.DecodeError:
        raise ValueError(f"{what} failed in one of {', '.join(scripts)}: {last_words(ended)}") from None


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Variables that became new or different, and names of those that went."""
    names = {name for name in {*before, *after} - _OF_SHELLS if before.get(name) != after.get(name)}
    return {name: after[name] for name in names if name in after}, sorted(names - set(after))


def _with_changes(environment: Environment, before: Mapping[str, str], after: Mapping[str, str]) -> Environment:
    changed, gone = _changes(before, after)
    path = environment.path
    old, new = before.get("PATH", ""), changed.get("PATH", "")
    if new.endswith(f":{old}"):  # folders were put before it: this process's own PATH need not travel
        path = (*new[: -len(old) - 1].split(":"), *path)
        del changed["PATH"]
    elif new:
        path = ()
    kept = {name: value for name, value in environment.variables.items() if name not in gone}
    unset = tuple(dict.fromkeys([*environment.unset, *gone]))
    return msgspec.structs.replace(environment, variables={**kept, **changed}, unset=unset, path=path)
