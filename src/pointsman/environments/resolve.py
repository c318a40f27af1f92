"""Turns the user's ``env=`` into an environment that is checked to run replicas."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from pointsman.engine.folder import link_folder
from pointsman.environments.conda import CONDA_VARIABLES, Surroundings, activate, find_prefix, find_python
from pointsman.environments.interpreter import check, check_version, probe
from pointsman.environments.kinds import CondaEnv, Kind, Requirements, VirtualEnv
from pointsman.environments.requirements import ensure, interpreter_build
from pointsman.model import CALLER, Environment
from pointsman.usercode.paths import PACKAGE_PARTS, PATH_VARIABLE, python_path

_OF_THE_CALLER = (PATH_VARIABLE, "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV")


def resolve(kind: Kind | Environment | None) -> Environment:
    """The checked environment in which replicas run.

    Args:
        kind: what the user gave, or an environment that was resolved before. For None, and for an environment of kind
            :data:`~pointsman.model.CALLER`, the result is this process's environment.

    Raises:
        ValueError: the environment does not exist, cannot be made, is writable for everyone, or cannot run replicas.
        ServeException: it is a conda environment, and there is no conda.
    """
    if kind is None or (isinstance(kind, Environment) and kind.kind == CALLER):
        return caller()
    if isinstance(kind, Environment):
        return _checked(kind)
    if isinstance(kind, CondaEnv):
        return _checked(activate(kind.name, find_prefix(kind.name, Surroundings.here())))
    return _checked(_virtual(kind) if isinstance(kind, VirtualEnv) else _from_requirements(kind))


def caller() -> Environment:
    """The environment of this process."""
    here = {**os.environ, PATH_VARIABLE: python_path()}
    variables = {name: here[name] for name in _OF_THE_CALLER if here.get(name)}
    return Environment(
        kind=CALLER,
        name=sys.prefix,
        python=sys.executable,
        version=".".join(map(str, sys.version_info[:3])),
        variables=variables,
        unset=tuple(name for name in _OF_THE_CALLER if name not in variables),
    )


def _virtual(kind: VirtualEnv) -> Environment:
    prefix = Path(kind.path)
    shown = f"virtualenv environment {kind.path!r}"
    if not prefix.is_dir():
        what = "is a file; give the environment's folder" if prefix.exists() else "does not exist"
        raise ValueError(f"{shown} {what}")
    if (prefix / "conda-meta").is_dir():
        return activate(kind.path, prefix)
    python = find_python(prefix, shown)
    is_virtual = (prefix / "pyvenv.cfg").exists()
    return Environment(
        kind="virtualenv",
        name=kind.path,
        python=str(python),
        version="",
        variables={"VIRTUAL_ENV": str(prefix)} if is_virtual else {},
        unset=("PYTHONHOME", *CONDA_VARIABLES, *(() if is_virtual else ("VIRTUAL_ENV",))),
        path=(str(prefix / "bin"),),
    )


def _from_requirements(kind: Requirements) -> Environment:
    python, version = sys.executable, interpreter_build()
    if kind.python is not None:
        base = Environment(kind="base", name=kind.python, python=kind.python, version="")
        facts = probe(base)
        check_version(base, facts)
        python, version = kind.python, facts.build
    prefix = ensure(kind, python, version)
    environment = _virtual(VirtualEnv(prefix))
    return msgspec.structs.replace(environment, kind="requirements", name=", ".join(kind.packages))


def _checked(environment: Environment) -> Environment:
    given = os.environ.get(PATH_VARIABLE, "")
    facts = probe(_with_python_path(environment, given))
    check(environment, facts)
    if not facts.pointsman:
        # Replicas import this process's pointsman: as compiled where that fits their Python, or else its sources.
        # check() has found its dependencies.
        given = os.pathsep.join([link_folder(*PACKAGE_PARTS), *([given] if given else [])])
    version = ".".join(map(str, facts.version))
    return msgspec.structs.replace(_with_python_path(environment, given), version=version)


def _with_python_path(environment: Environment, value: str) -> Environment:
    """The environment with this ``PYTHONPATH``. An empty one is unset explicitly: the inherited value may name the
    instance's own packages."""
    if not value:
        others = {name: value for name, value in environment.variables.items() if name != PATH_VARIABLE}
        unset = tuple(dict.fromkeys([*environment.unset, PATH_VARIABLE]))
        return msgspec.structs.replace(environment, variables=others, unset=unset)
    return msgspec.structs.replace(environment, variables={**environment.variables, PATH_VARIABLE: value})
