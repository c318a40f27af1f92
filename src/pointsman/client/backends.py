"""Operations on backends, and ``deploy``, which makes a backend and its endpoint together.

Code is packed, checked, and imported once in the environment of its replicas before anything is registered, so that a
mistake in it changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pointsman import arguments
from pointsman import config as options
from pointsman.actor_options import check_hash_seed
from pointsman.arguments import check_timeout
from pointsman.backends import ImportedBackend
from pointsman.client.keywords import explains_keywords
from pointsman.client.operations import Operations, author, new_id, origin_here
from pointsman.config import BackendConfig
from pointsman.engine.folder import link_folder
from pointsman.engine.instances import parse_actor_options
from pointsman.environments.kinds import Kind, parse_env
from pointsman.environments.rehearsal import try_import
from pointsman.environments.resolve import resolve
from pointsman.model import CALLER, BackendSpec, Environment, Origin, Resources, TargetTraits
from pointsman.policy.shardkey import check_source
from pointsman.usercode.packing import carries_code, code_digest, inspect_code, pack_code
from pointsman.usercode.paths import added_sys_path
from pointsman.wire.commands import CreateBackend, DeleteBackend, Deploy, UpdateBackendConfig


class BackendOperations(Operations):
    """Creates, changes, deletes and lists backends."""

    @explains_keywords
    def create_backend(
        self,
        backend_tag: str,
        func_or_class: Code,
        *actor_init_args: Any,
        ray_actor_options: Mapping[str, Any] | None = None,
        config: BackendConfig | Mapping[str, Any] | None = None,
        env: Kind | str | None = None,
    ) -> None:
        """Start replicas of a function or class; returns when all of them are ready.

        Args:
            backend_tag: 1-200 printable characters.
            func_or_class: called with one request (or a list of them, when marked by ``@accept_batch``); an
                :class:`ImportedBackend` names one that only the replicas import.
            actor_init_args: positional arguments of the class's constructor.
            ray_actor_options: resources of each replica: ``num_cpus``, ``num_gpus``, ``memory``, ``resources``,
                ``env_vars``, ``working_dir``, ``py_modules``; on a Ray cluster also on which nodes.
            config: a :class:`BackendConfig` or a dict of its fields.
            env: the Python environment of the replicas: a :class:`VirtualEnv`, a :class:`CondaEnv` or the name of a
                conda environment; that of the caller by default.

        Raises:
            TypeError, ValueError: an argument is wrong, or the tag is taken, or the environment cannot run the code.
            ServeException: a conda environment is asked for, and there is no conda.
            InsufficientResourcesError: there is not enough for all replicas.
            BackendStartError: the constructor failed on every try; its cause is the user's exception.
        """
        tag = arguments.check_object_name(backend_tag, "backend_tag")
        spec = options.config_spec(config)
        resources = parse_actor_options(ray_actor_options, self._credentials.control_path)
        kind = parse_env(env)
        if kind is not None and tag in self._status().backends:  # before minutes are spent on making an environment
            raise ValueError(f"backend {tag!r} exists already; delete it first, or use deploy() to replace its code")
        package = prepare(func_or_class, actor_init_args, kind, resources, spec.user_config)
        command = CreateBackend(new_id(), tag, package.digest, package.origin, package.traits, spec, resources)
        self._change(command, package.blob, backend=tag)

    @explains_keywords
    def update_backend_config(self, backend_tag: str, config_options: BackendConfig | Mapping[str, Any]) -> None:
        """Change fields of a backend's config; returns when every replica has the change.

        Only fields that are given change. Replicas are started and stopped only for ``num_replicas``.

        Raises:
            TypeError, ValueError: an argument is wrong, or the backend unknown.
            InsufficientResourcesError, BackendStartError: the change cannot be made; the old config is in force.
        """
        if config_options is None:
            raise TypeError("config_options must be a dict or a BackendConfig, not None")
        changes, user_config = options.config_changes(config_options, "config_options")
        tag = arguments.check_object_name(backend_tag, "backend_tag")
        if user_config is not None and carries_code(user_config):
            present = self._present(tag)
            check_bytecode(user_config, "user_config", present.origin.environment if present is not None else None)
        self._change(UpdateBackendConfig(new_id(), tag, changes, user_config), backend=tag)

    def get_backend_config(self, backend_tag: str) -> BackendConfig:
        """A backend's config.

        Raises:
            ValueError: there is no such backend.
        """
        spec = self._present(arguments.check_object_name(backend_tag, "backend_tag"))
        if spec is None:
            raise ValueError(f"backend {backend_tag!r} does not exist; there are {sorted(self._status().backends)}")
        return options.config_from_spec(spec.config)

    def list_backends(self) -> dict[str, BackendConfig]:
        """Each backend's config, by tag.

        Raises:
            TooLargeError: they take more than 64 MiB, as ``user_config`` can; ``get_backend_config`` reads one.
        """
        return {tag: options.config_from_spec(spec.config) for tag, spec in self._backends().items()}

    def delete_backend(self, backend_tag: str, force: bool = False) -> None:
        """Remove a backend that no endpoint uses; returns when its replicas are gone. An unknown one is logged and
        ignored.

        Args:
            force: kill the replicas at once instead of letting them finish what they run.

        Raises:
            ValueError: an endpoint uses it.
        """
        tag = arguments.check_object_name(backend_tag, "backend_tag")
        self._change(DeleteBackend(new_id(), tag, bool(force)), backend=tag, gone=True)

    @explains_keywords
    def deploy(
        self,
        name: str,
        func_or_class: Code,
        *init_args: Any,
        route: str | None = None,
        methods: list[str] | None = None,
        config: BackendConfig | Mapping[str, Any] | None = None,
        ray_actor_options: Mapping[str, Any] | None = None,
        env: Kind | str | None = None,
        idempotent: bool | None = None,
        shard_key: str | None = None,
        request_timeout_s: float | None = None,
        max_body_bytes: float | None = None,
    ) -> None:
        """Make backend and endpoint under one name; on a name that exists, replace the code without losing a request.

        What is left out keeps its present value on a re-deploy, an environment too; on a new name ``methods`` are GET
        and POST, and without ``route`` the endpoint is for handles only.

        Raises:
            TypeError, ValueError: an argument is wrong, or the endpoint of that name uses other backends.
            InsufficientResourcesError, BackendStartError: the new version cannot come up; all is as it was.
        """
        arguments.check_object_name(name, "name")
        changes, user_config = options.config_changes(config, "config")
        resources = None
        if ray_actor_options is not None:
            resources = parse_actor_options(ray_actor_options, self._credentials.control_path)
        kind = parse_env(env)
        present = self._present(name)
        if resources is None and present is not None:
            resources = present.resources
        environment = present.origin.environment if present is not None else None
        package = prepare(func_or_class, init_args, kind or environment, resources or Resources(), user_config)
        command = Deploy(
            new_id(),
            name,
            package.digest,
            package.origin,
            package.traits,
            changes,
            user_config,
            resources,
            arguments.check_route(route),
            arguments.check_methods(methods, None),
            idempotent,
            check_source(shard_key) if shard_key is not None else None,
            check_timeout(request_timeout_s, "request_timeout_s"),
            arguments.check_max_body(max_body_bytes),
            by=author(),
        )
        self._change(command, package.blob, backend=name)

    def _present(self, tag: str) -> BackendSpec | None:
        """The backend's present specification; None if it does not exist."""
        return self._backends(tag).get(tag)


Code = Callable[..., Any] | type | ImportedBackend


class Package(NamedTuple):
    """Code that is packed, checked and ready to be registered.

    Attributes:
        blob: the pickled function or class with its init args.
        digest: the name under which ``blob`` is stored.
        origin: working folder, import path and environment of its replicas.
        traits: what was found out about the function or class.
    """

    blob: bytes
    digest: str
    origin: Origin
    traits: TargetTraits


def prepare(
    code: Code,
    init_args: tuple[Any, ...],
    env: Kind | Environment | None,
    resources: Resources,
    user_config: bytes | None,
) -> Package:
    """Pack and check code for an environment; None is the caller's.

    Code that runs in the caller's environment is loaded already. For another environment, and for code that is given
    by an import path, that environment's interpreter imports it once on trial.

    Raises:
        TypeError, ValueError: the code cannot be a backend, or the environment cannot run it.
        ServeException: a conda environment is asked for, and there is no conda.
    """
    traits = None if isinstance(code, ImportedBackend) else inspect_code(code, init_args)
    environment = resolve(env)
    check_hash_seed(environment.variables)
    blob = pack_code(code, init_args, [*own_folders(resources), *_site_packages(environment)])
    name = getattr(code, "__qualname__", repr(code))
    what = "an init argument" if isinstance(code, ImportedBackend) else name
    for data, part in ((blob, what), (user_config or b"", "user_config")):
        check_bytecode(data, part, environment)
    origin = origin_for(environment, resources)
    if traits is None or environment.kind != CALLER:
        variables = {**environment.variables, **resources.env_vars}
        traits = try_import(name, blob, origin, msgspec.structs.replace(environment, variables=variables))
    return Package(blob, code_digest(blob), origin, traits)


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


def origin_for(environment: Environment, resources: Resources) -> Origin:
    """Working folder, import path and environment of the replicas of code that this process ships."""
    here = origin_here()
    sys_path = here.sys_path if environment.kind == CALLER else added_sys_path()
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
