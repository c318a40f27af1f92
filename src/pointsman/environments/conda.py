"""Conda: where an environment of a given name is, and what activating it does to a process.

Reads what conda, mamba and micromamba leave on disk and in the environment; runs none of them, which takes a second and
works only where they are on the ``PATH``.
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
from pointsman.environments import conda
from pointsman.environments.interpreter import last_words, run_bounded
from pointsman.exceptions import ServeException
from pointsman.model import Environment
from pointsman.usercode.paths import refuse_open

USUAL_HOMES = ("miniforge3", "miniconda3", "mambaforge", "anaconda3", "micromamba")
USUAL_PLACES = ("/opt/conda", "/opt/miniforge3", "/opt/miniconda3", "/opt/anaconda3")
BASE = ("base", "root")
UNSET = "***unset***"
"""How conda stores that a variable shall not be set."""


class Surroundings(NamedTuple):
    """What there is to find conda by: the process's variables, its ``sys.prefix``, and its user's home folder."""

    variables: Mapping[str, str]
    prefix: Path
    home: Path

    @classmethod
    def here(cls) -> Surroundings:
        return cls(os.environ, Path(sys.prefix), Path(os.path.expanduser("~")))


def find_prefix(name: str, around: Surroundings) -> Path:
    """The folder of the conda environment of that name, as conda itself would choose it.

    Raises:
        ServeException: there is no conda.
        ValueError: there is no environment of that name, or more than one that only has a path.
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
    """Root folders of conda, mamba and micromamba, that of the active environment first."""
    found = [root for root in _candidates(around) if _is_environment(root) or (root / "envs").is_dir()]
    return list(dict.fromkeys(found))


def environment_folders(around: Surroundings, roots: list[Path]) -> list[Path]:
    """Folders whose subfolders are environments, in the order in which conda looks into them."""
    named = around.variables.get("CONDA_ENVS_DIRS") or around.variables.get("CONDA_ENVS_PATH") or ""
    folders = [Path(part).expanduser() for part in named.split(os.pathsep) if part]
    for file in _settings_files(around, roots):
        folders += [Path(os.path.expandvars(part)).expanduser() for part in _envs_dirs(file)]
    folders += [root / "envs" for root in roots]
    return list(dict.fromkeys([*folders, around.home / ".conda" / "envs"]))


def stored_variables(prefix: Path) -> dict[str, str]:
    """Variables of ``conda env config vars set`` and of the environment's packages."""
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


def scripts(prefix: Path, kind: str) -> list[str]:
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
    """Where the active environment's siblings are, and those of a base. Here an interpreter makes an environment: not
    every tool that makes one leaves what conda does."""
    return [Path(active).parent, Path(active) / "envs"] if active else []


def _root_of(prefix: Path) -> Path:
    return prefix.parent.parent if prefix.parent.name == "envs" else prefix


def _is_environment(prefix: Path) -> bool:
    return (prefix / "conda-meta").is_dir()


def _listed(around: Surroundings) -> list[Path]:
    """Environments that conda has noted for this user, wherever they are."""
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
    """The list ``envs_dirs`` of a settings file. Of YAML only what such a list is written in is understood."""
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
