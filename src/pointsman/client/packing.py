"""Makes code ready to be registered: packed, checked, imported on trial, and with its source in words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pointsman.actor_options import check_hash_seed
from pointsman.backends import ImportedBackend, TriedBackend
from pointsman.client.operations import origin_here
from pointsman.client.sources import Code, args_as_json, commit_of, env_as_json, import_path, name_of
from pointsman.engine.folder import link_folder
from pointsman.environments.kinds import Kind
from pointsman.environments.rehearsal import try_import
from pointsman.environments.resolve import resolve
from pointsman.model import CALLER, BackendSpec, Environment, Origin, Resources, Source, TargetTraits
from pointsman.usercode.content import content_of
from pointsman.usercode.packing import carries_code, code_digest, folder_of, inspect_code, pack_code
from pointsman.usercode.paths import added_sys_path, working_folder


class Package(NamedTuple):
    """Code that is packed, checked and ready to be registered.

    Attributes:
        blob: the pickled function or class with its init args.
        digest: the name under which ``blob`` is stored.
        origin: working folder, import path and environment of its replicas.
        traits: what was found out about the function or class.
        source: where it comes from.
    """

    blob: bytes
    digest: str
    origin: Origin
    traits: TargetTraits
    source: Source


def prepare(
    code: Code,
    init_args: tuple[Any, ...],
    env: Kind | None,
    resources: Resources,
    user_config: bytes | None,
    *,
    version: str | None = None,
    present: BackendSpec | None = None,
    here: Origin | None = None,
) -> Package:
    """Pack and check code for an environment.

    Code that runs in the caller's environment is loaded already. For another environment, and for code that is given
    by an import path, that environment's interpreter imports it once on trial.

    Args:
        env: None for that of ``present``, or else the caller's.
        version: a word of the user's for what files do not show; None for that of ``present``, or else none.
        present: the backend as it is; None if it does not exist.
        here: working folder of the replicas, and folders of their import path before those of the environment; None for
            those of this process.

    Raises:
        TypeError, ValueError: the code cannot be a backend, or the environment cannot run it.
        ServeException: a conda environment is asked for, and there is no conda.
    """
    traits: TargetTraits | None
    if isinstance(code, ImportedBackend):
        traits = code.traits if isinstance(code, TriedBackend) else None
    else:
        traits = inspect_code(code, init_args)
    environment = resolve(env or (present.origin.environment if present is not None else None))
    check_hash_seed(environment.variables)
    folders = [*own_folders(resources), *_site_packages(environment)]
    blob = pack_code(code, init_args, folders)
    name = getattr(code, "__qualname__", repr(code))
    what = "an init argument" if isinstance(code, ImportedBackend) else name
    for data, part in ((blob, what), (user_config or b"", "user_config")):
        check_bytecode(data, part, environment)
    origin, path = origin_for(environment, resources, here), import_path(code, folders)
    if traits is None or environment.kind != CALLER:
        variables = {**environment.variables, **resources.env_vars}
        on_trial = msgspec.structs.replace(environment, variables=variables)
        traits, content, folder, _ = try_import(name, blob, origin, on_trial)
    elif isinstance(code, TriedBackend):
        content, folder = code.content, code.folder
    else:
        content, folder = content_of(blob, folders, path), folder_of(code)
    source = Source(
        path=path,
        name=name_of(code),
        args=args_as_json(init_args),
        env=present.source.env if env is None and present is not None else env_as_json(env),
        content=content,
        version=(present.source.version if present is not None else "") if version is None else version,
        commit=commit_of(folder or working_folder()),
    )
    return Package(blob, code_digest(blob), origin, traits, source)


def check_bytecode(data: bytes, what: str, environment: Environment | None) -> None:
    """Refuse code that is pickled by value for another minor version of Python, which cannot run its bytecode.

    Args:
        data: a pickle.
        what: the name of the pickled object in the error's text.
        environment: where it is to be loaded; None for an environment with this Python.

    Raises:
        ValueError: the pickle holds code by value, and the minor versions differ.
    """
    if environment is None:
        return
    here, there = (f"{sys.version_info[0]}.{sys.version_info[1]}", ".".join(environment.version.split(".")[:2]))
    if here != there and carries_code(data):
        raise ValueError(
            f"{what} would be sent as bytecode of Python {here}, which Python {there} of {environment} cannot run; put"
            " it into a module that is found there, and name the backend with ImportedBackend('module:Name')"
        )


def origin_for(environment: Environment, resources: Resources, here: Origin | None = None) -> Origin:
    """Working folder, import path and environment of the replicas of code that this process ships; for ``here`` see
    :func:`prepare`."""
    if here is None:
        here = origin_here()
        sys_path = here.sys_path if environment.kind == CALLER else added_sys_path()
    else:
        sys_path = here.sys_path
    return Origin(resources.working_dir or here.cwd, (*own_folders(resources), *sys_path), environment)


def _site_packages(environment: Environment) -> list[str]:
    """Package folders of another environment. Modules found there are pickled by name, whatever this process loaded."""
    if environment.kind == CALLER:
        return []
    return [str(folder) for folder in Path(environment.python).parent.parent.glob("lib*/python3*/site-packages")]


def own_folders(resources: Resources) -> list[str]:
    """The first entries of the import path of a backend's replicas: its ``py_modules`` and its ``working_dir``."""
    modules = [link_folder(*resources.py_modules)] if resources.py_modules else []
    return [*modules, *([resources.working_dir] if resources.working_dir else [])]
