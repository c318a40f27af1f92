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

from pointsman.arguments import nearest
from pointsman.exceptions import ServeException

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
