"""Finds conda environments by name, and computes the variables that activating one sets.

Reads the files and variables of conda, mamba and micromamba instead of running them: that takes a second, and works
only if they are on the ``PATH``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from pointsman.arguments import nearest
from pointsman.environments.interpreter import exit_reason, run_bounded
from pointsman.exceptions import ServeException
from pointsman.model import Environment
from pointsman.usercode.paths import refuse_world_writable

#: Where installers put conda by default: in the home folder, and system-wide.
USUAL_HOMES = ("miniforge3", "miniconda3", "mambaforge", "anaconda3", "micromamba")
USUAL_PLACES = ("/opt/conda", "/opt/miniforge3", "/opt/miniconda3", "/opt/anaconda3")
BASE = ("base", "root")
#: The value by which conda stores that a variable is unset.
UNSET = "***unset***"
CONDA_VARIABLES = ("CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_SHLVL", "CONDA_PROMPT_MODIFIER", "CONDA_PREFIX_1")
ACTIVATE_TIMEOUT_S = 5.0
# Paths reach the shell as arguments and are no part of its text. The scripts' output goes to standard error, since
# standard output has the answer.
SOURCE_ALL = 'python=$1; dump=$2; shift 2; for script in "$@"; do . "$script"; done >&2; exec "$python" -I -c "$dump"'
DUMP = "import json, os; print(json.dumps(dict(os.environ)))"
#: Variables that every shell changes.
_SHELL_VARIABLES = frozenset(("_", "SHLVL", "PWD", "OLDPWD"))


class Surroundings(NamedTuple):
    """Where a search for conda starts: a process's variables, its ``sys.prefix``, and its user's home folder."""

    variables: Mapping[str, str]
    prefix: Path
    home: Path

    @classmethod
    def here(cls) -> Surroundings:
        return cls(os.environ, Path(sys.prefix), Path(os.path.expanduser("~")))


def find_prefix(name: str, around: Surroundings) -> Path:
    """The folder of a conda environment, found by the rules of conda itself.

    Raises:
        ServeException: no conda is found.
        ValueError: no environment has that name, or several outside conda's folders have it.
    """
    roots, listed = installations(around), _listed(around)
    active = around.variables.get("CONDA_PREFIX", "")
    if not roots and not listed and not active:
        raise ServeException(
            f"no conda installation is found for conda environment {name!r}; set CONDA_EXE or MAMBA_ROOT_PREFIX, or"
            " give the environment's folder to VirtualEnv"
        )
    if name in BASE and roots:
        return roots[0]
    if active and around.variables.get("CONDA_DEFAULT_ENV") == name and Path(active).is_dir():
        return Path(active)
    folders = environment_folders(around, roots)
    for folder in folders:
        if _is_environment(folder / name):
            return folder / name
    beside = [folder / name for folder in _beside(active) if (folder / name / "bin" / "python").exists()]
    if beside:
        return beside[0]
    matches = [prefix for prefix in listed if prefix.name == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        where = ", ".join(map(str, matches))
        raise ValueError(f"conda environment {name!r} exists more than once: {where}; give one of them to VirtualEnv")
    there = {
        entry.name for folder in folders if folder.is_dir() for entry in folder.iterdir() if _is_environment(entry)
    }
    names = sorted({*there, *(prefix.name for prefix in listed), *([BASE[0]] if roots else [])})
    raise ValueError(f"conda environment {name!r} does not exist{nearest(name, names) if names else ''}")


def installations(around: Surroundings) -> list[Path]:
    """Root folders of conda, mamba and micromamba; the root of the active environment comes first."""
    found = [root for root in _candidates(around) if _is_environment(root) or (root / "envs").is_dir()]
    return list(dict.fromkeys(found))


def environment_folders(around: Surroundings, roots: list[Path]) -> list[Path]:
    """Folders whose subfolders are environments, in the order in which conda searches them."""
    named = around.variables.get("CONDA_ENVS_DIRS") or around.variables.get("CONDA_ENVS_PATH") or ""
    folders = [Path(part).expanduser() for part in named.split(os.pathsep) if part]
    for file in _settings_files(around, roots):
        folders += [Path(os.path.expandvars(part)).expanduser() for part in _envs_dirs(file)]
    folders += [root / "envs" for root in roots]
    return list(dict.fromkeys([*folders, around.home / ".conda" / "envs"]))


def stored_variables(prefix: Path) -> dict[str, str]:
    """Variables that ``conda env config vars set`` and the environment's packages have stored."""
    variables: dict[str, str] = {}
    for file in (*sorted(prefix.glob("etc/conda/env_vars.d/*.json")), prefix / "conda-meta" / "state"):
        try:
            stored = json.loads(file.read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} of the conda environment cannot be read: {error}") from None
        values = stored.get("env_vars", {}) if file.name == "state" else stored
        variables |= {name: str(value) for name, value in values.items() if value != UNSET}
    return variables


def hook_scripts(prefix: Path, kind: str) -> list[str]:
    """Scripts that run when an environment is entered (``activate``) or left (``deactivate``)."""
    return [str(path) for path in sorted(prefix.glob(f"etc/conda/{kind}.d/*.sh"))]


def _candidates(around: Surroundings) -> Iterator[Path]:
    variables = around.variables
    active = [variables[name] for name in ("CONDA_PREFIX", "CONDA_PREFIX_1") if variables.get(name)]
    for prefix in active:
        yield _root_of(Path(prefix))
    for name in ("CONDA_EXE", "MAMBA_EXE"):
        if variables.get(name):
            yield Path(variables[name]).parent.parent
    for name in ("MAMBA_ROOT_PREFIX", "CONDA_ROOT", "_CONDA_ROOT"):
        if variables.get(name):
            yield Path(variables[name])
    for program in ("conda", "mamba"):
        path = shutil.which(program, path=variables.get("PATH", ""))
        if path:
            yield Path(path).resolve().parent.parent
    if _is_environment(around.prefix):
        yield _root_of(around.prefix)
    yield from (around.home / name for name in USUAL_HOMES)
    yield from map(Path, USUAL_PLACES)


def _beside(active: str) -> list[Path]:
    """Folders that may hold environments beside the active one, or below it if it is the base.

    An interpreter is enough to be taken for an environment there: not every tool writes a ``conda-meta`` folder.
    """
    return [Path(active).parent, Path(active) / "envs"] if active else []


def _root_of(prefix: Path) -> Path:
    return prefix.parent.parent if prefix.parent.name == "envs" else prefix


def _is_environment(prefix: Path) -> bool:
    return (prefix / "conda-meta").is_dir()


def _listed(around: Surroundings) -> list[Path]:
    """Environments in conda's own list for this user, which has those outside the usual folders too."""
    try:
        lines = (around.home / ".conda" / "environments.txt").read_text().splitlines()
    except OSError:
        return []
    return [Path(line.strip()) for line in lines if line.strip() and _is_environment(Path(line.strip()))]


def _settings_files(around: Surroundings, roots: list[Path]) -> Iterator[Path]:
    home = around.home
    if around.variables.get("CONDARC"):
        yield Path(around.variables["CONDARC"]).expanduser()
    yield from (home / ".condarc", home / ".conda" / ".condarc", home / ".config" / "conda" / ".condarc")
    yield home / ".mambarc"
    yield from (root / ".condarc" for root in roots)
    yield Path("/etc/conda/.condarc")


_KEY = re.compile(r"envs_(?:dirs|path)\s*:\s*(.*)")
_ITEM = re.compile(r"\s*-\s+(.+)")


def _envs_dirs(file: Path) -> list[str]:
    """The list ``envs_dirs`` of a settings file. Understands only the part of YAML that such lists are written in."""
    try:
        lines = [re.sub(r"(^|\s)#.*", "", line).rstrip() for line in file.read_text().splitlines()]
    except OSError:
        return []
    items: list[str] = []
    inside = False
    for line in filter(None, lines):
        key, item = _KEY.match(line), _ITEM.match(line)
        if key:
            items += key[1].strip("[]").split(",") if key[1] else []
            inside = not key[1]
        elif inside and item:
            items.append(item[1])
        else:
            inside = False
    return [item.strip().strip("'\"") for item in items if item.strip()]


def find_python(prefix: Path, shown: str) -> Path:
    """The interpreter of the environment in a folder.

    Args:
        shown: the environment's name in error texts.

    Raises:
        ValueError: there is no interpreter, or everyone may write to the environment.
    """
    python = prefix / "bin" / "python"
    if not python.exists():
        why = "leads nowhere" if python.is_symlink() else "does not exist"
        raise ValueError(f"{shown} has no interpreter: {python} {why}")
    for path in (prefix, prefix / "bin", python, *prefix.glob("lib/python3*/site-packages")):
        refuse_world_writable(path, shown)
    return python


def activate(name: str, prefix: Path) -> Environment:
    """A conda environment with the variables of a shell after ``conda activate``, those of packages' scripts included.

    An environment that is active in this process is deactivated first, as conda does.

    Raises:
        ValueError: there is no interpreter, everyone may write to the environment, or one of its scripts fails.
    """
    shown = f"conda environment {name!r}"
    python = str(find_python(prefix, shown))
    changed, gone = _changes(os.environ, _deactivated(python, shown))
    entered = {
        "CONDA_PREFIX": str(prefix),
        "CONDA_DEFAULT_ENV": name,
        "CONDA_SHLVL": "1",
        **stored_variables(prefix),
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
    after = _source(hook_scripts(prefix, "activate"), before, python, shown)
    return _with_changes(environment, before, after)


def _deactivated(python: str, shown: str) -> dict[str, str]:
    """This process's variables after ``conda deactivate``."""
    variables = dict(os.environ)
    active = variables.get("CONDA_PREFIX")
    if not active:
        return variables
    for name in stored_variables(Path(active)):
        variables.pop(name, None)
    return _source(hook_scripts(Path(active), "deactivate"), variables, python, shown)


def _source(scripts: list[str], variables: dict[str, str], python: str, shown: str) -> dict[str, str]:
    """The variables of a shell after it has sourced scripts."""
    if not scripts:
        return variables
    shell = shutil.which("bash") or "/bin/sh"  # most of conda's scripts run in any shell, some need bash
    what = f"activating {shown}"
    command = [shell, "-c", SOURCE_ALL, "activate", python, DUMP, *scripts]
    ended = run_bounded(what, command, variables, timeout_s=ACTIVATE_TIMEOUT_S)
    try:
        return msgspec.json.decode(ended.stdout, type=dict[str, str])
    except msgspec.DecodeError:
        raise ValueError(f"{what} failed in one of {', '.join(scripts)}: {exit_reason(ended)}") from None


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Variables that were added or changed, and names of those that were removed."""
    names = {name for name in {*before, *after} - _SHELL_VARIABLES if before.get(name) != after.get(name)}
    return {name: after[name] for name in names if name in after}, sorted(names - set(after))


def _with_changes(environment: Environment, before: Mapping[str, str], after: Mapping[str, str]) -> Environment:
    changed, gone = _changes(before, after)
    path = environment.path
    old, new = before.get("PATH", ""), changed.get("PATH", "")
    if new.endswith(f":{old}"):  # only the added folders are sent, since replicas have their own PATH
        path = (*new[: -len(old) - 1].split(":"), *path)
        del changed["PATH"]
    elif new:
        path = ()
    kept = {name: value for name, value in environment.variables.items() if name not in gone}
    unset = tuple(dict.fromkeys([*environment.unset, *gone]))
    return msgspec.structs.replace(environment, variables={**kept, **changed}, unset=unset, path=path)
