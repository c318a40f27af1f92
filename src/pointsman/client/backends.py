"""Operations on backends, and ``deploy``, which makes a backend and its endpoint together.

Code is packed, checked, and imported once in the environment of its replicas before anything is registered, so that a
mistake in it changes nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from pointsman import arguments
from pointsman import config as options
from pointsman.arguments import check_timeout
from pointsman.client.keywords import explains_keywords
from pointsman.client.operations import Operations, new_id
from pointsman.client.packing import check_bytecode, prepare
from pointsman.client.scaling import find_policy, with_policy
from pointsman.client.sources import Code
from pointsman.engine.instances import parse_actor_options
from pointsman.environments.kinds import Kind, parse_env
from pointsman.model import BackendSpec, Resources
from pointsman.policy.shardkey import check_source
from pointsman.usercode.packing import carries_code
from pointsman.wire.commands import CreateBackend, DeleteBackend, Deploy, ReplaceBackend, UpdateBackendConfig
from pointsman.wire.messages import unpack
from pointsman.wire.scaling import ModelList, QueryModels

if TYPE_CHECKING:
    from pointsman.config import BackendConfig


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
        version: str | None = None,
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
            version: a word of your own for what code and arguments do not show, such as the weights in a file. A new
                one makes ``deploy`` and ``replace_backend`` start new replicas of code that is otherwise the same.

        Raises:
            TypeError, ValueError: an argument is wrong, or the tag is taken, or the environment cannot run the code.
            ServeException: a conda environment is asked for, and there is no conda.
            InsufficientResourcesError: there is not enough for all replicas.
            BackendStartError: the constructor failed on every try; its cause is the user's exception.
        """
        tag = arguments.check_object_name(backend_tag, "backend_tag")
        spec = options.config_spec(config)
        if spec.autoscaling is not None:
            spec = msgspec.structs.replace(spec, autoscaling=with_policy(spec.autoscaling, None))
        resources = parse_actor_options(ray_actor_options, self._credentials.control_path)
        kind, version = parse_env(env), arguments.check_version(version)
        if kind is not None and tag in self._status().backends:  # before minutes are spent on making an environment
            raise ValueError(f"backend {tag!r} exists already; delete it first, or use deploy() to replace its code")
        package = prepare(func_or_class, actor_init_args, kind, resources, spec.user_config, version=version)
        _, digest, origin, traits, source = package
        command = CreateBackend(new_id(), tag, digest, origin, traits, spec, resources, source)
        self._change(command, package.blob, backend=tag)

    @explains_keywords
    def replace_backend(
        self,
        backend_tag: str,
        func_or_class: Code,
        *actor_init_args: Any,
        config: BackendConfig | Mapping[str, Any] | None = None,
        ray_actor_options: Mapping[str, Any] | None = None,
        env: Kind | str | None = None,
        version: str | None = None,
    ) -> None:
        """Replace the code of a backend replica by replica, whatever endpoints use it, without losing a request.

        What is left out keeps its present value. Code that is the same as before, with the same arguments, environment
        and resources, touches no replica; then only the config changes.

        Args:
            backend_tag: tag of the backend.
            func_or_class: the new code, as for :meth:`create_backend`.
            actor_init_args: positional arguments of the class's constructor.
            config: fields to change with the code; those that are not given stay.
            ray_actor_options: resources of each replica; None for those that it has.
            env: the Python environment of the replicas; None for the one that it has.
            version: see :meth:`create_backend`.

        Raises:
            TypeError, ValueError: an argument is wrong, the backend unknown, or one version is an ASGI app and the
                other is none.
            InsufficientResourcesError, BackendStartError: the new version cannot come up; all is as it was.
        """
        tag = arguments.check_object_name(backend_tag, "backend_tag")
        changes, user_config = options.config_changes(config, "config")
        resources = self._resources(ray_actor_options)
        kind, version = parse_env(env), arguments.check_version(version)
        present = self._existing(tag)
        self._find_policy(changes, present)
        package = prepare(
            func_or_class,
            actor_init_args,
            kind,
            resources or present.resources,
            user_config,
            version=version,
            present=present,
        )
        blob, digest, origin, traits, source = package
        command = ReplaceBackend(new_id(), tag, digest, origin, traits, changes, user_config, resources, source)
        self._change(command, blob, backend=tag)

    @explains_keywords
    def update_backend_config(self, backend_tag: str, config_options: BackendConfig | Mapping[str, Any]) -> None:
        """Change fields of a backend's config; returns when every replica has the change.

        Only fields that are given change. Replicas are started and stopped only for ``num_replicas``.

        Args:
            backend_tag: tag of the backend.
            config_options: a :class:`BackendConfig` or a dict of its fields: those to change.

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
        if changes.get("autoscaling") is not None:
            self._find_policy(changes, self._present(tag))
        self._change(UpdateBackendConfig(new_id(), tag, changes, user_config), backend=tag)

    def get_backend_config(self, backend_tag: str) -> BackendConfig:
        """A backend's config.

        Args:
            backend_tag: tag of the backend.

        Raises:
            ValueError: there is no such backend.
        """
        spec = self._existing(arguments.check_object_name(backend_tag, "backend_tag"))
        return options.config_from_spec(spec.config)

    def list_backends(self) -> dict[str, BackendConfig]:
        """Each backend's config, by tag.

        Raises:
            TooLargeError: they take more than 64 MiB, as ``user_config`` can; ``get_backend_config`` reads one.
        """
        return {tag: options.config_from_spec(spec.config) for tag, spec in self._backends().items()}

    def models(self, backend_tag: str) -> dict[str, list[dict[str, Any]]]:
        """The models that the replicas of a backend hold, where its code has a ``@serve.multiplexed``.

        Args:
            backend_tag: tag of the backend.

        Returns:
            By replica a dict for each model: ``id``, ``bytes`` (0 where nothing says how large it is), ``in_use`` (how
            many calls and streams use it now) and ``idle_s`` (seconds since its last use; 0 while it is used).

        Raises:
            ValueError: the backend does not exist.
            ServeException: a replica does not answer.
        """
        arguments.check_object_name(backend_tag, "backend_tag")
        self._check_alive()
        held = unpack(self._session.command(QueryModels(new_id(), backend_tag)), ModelList).replicas
        return {
            replica: [{**msgspec.structs.asdict(model), "idle_s": round(model.idle_s, 3)} for model in models]
            for replica, models in held.items()
        }

    def delete_backend(self, backend_tag: str, force: bool = False) -> None:
        """Remove a backend that no endpoint uses; returns when its replicas are gone. An unknown one is logged and
        ignored.

        Args:
            backend_tag: tag of the backend.
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
        version: str | None = None,
    ) -> None:
        """Make backend and endpoint under one name; on a name that exists, replace the code without losing a request.

        What is left out keeps its present value on a re-deploy, an environment too; on a new name ``methods`` are GET
        and POST, and without ``route`` the endpoint is for handles only. Code that is the same as before, with the same
        arguments, environment and resources, touches no replica.

        Args:
            name: of both, 1-200 printable characters.
            func_or_class: the code, as for :meth:`create_backend`.
            init_args: positional arguments of the class's constructor.
            route: HTTP path, as for :meth:`create_endpoint`.
            methods: HTTP methods of the route; an ASGI app takes none.
            config: a :class:`BackendConfig` or a dict of its fields.
            ray_actor_options: resources of each replica, as for :meth:`create_backend`.
            env: the Python environment of the replicas.
            idempotent: whether a request that had started may be repeated when its replica dies; at first it may not.
            shard_key: where an HTTP request carries its key, as for :meth:`create_endpoint`.
            request_timeout_s: deadline of a call in seconds; at first that of the instance.
            max_body_bytes: largest body of a request; at first that of the instance.
            version: see :meth:`create_backend`.

        Raises:
            TypeError, ValueError: an argument is wrong, or the endpoint of that name uses other backends.
            InsufficientResourcesError, BackendStartError: the new version cannot come up; all is as it was. A
                BackendStartError too if another deploy has replaced this one before it was in effect; that one goes on.
        """
        arguments.check_object_name(name, "name")
        changes, user_config = options.config_changes(config, "config")
        resources = self._resources(ray_actor_options)
        kind, version = parse_env(env), arguments.check_version(version)
        present = self._present(name)
        self._find_policy(changes, present)
        if resources is None and present is not None:
            resources = present.resources
        package = prepare(
            func_or_class, init_args, kind, resources or Resources(), user_config, version=version, present=present
        )
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
            package.source,
        )
        self._change(command, package.blob, backend=name)

    def _find_policy(self, changes: dict[str, Any], present: BackendSpec | None) -> None:
        """Have the changes of a config say where its autoscaling policy is found. Raises as :func:`find_policy`."""
        find_policy(changes, present)

    def _resources(self, ray_actor_options: Mapping[str, Any] | None) -> Resources | None:
        """What is given; None if nothing is."""
        if ray_actor_options is None:
            return None
        return parse_actor_options(ray_actor_options, self._credentials.control_path)

    def _existing(self, tag: str) -> BackendSpec:
        """A backend's present specification.

        Raises:
            ValueError: there is no such backend.
        """
        spec = self._present(tag)
        if spec is None:
            known = sorted(self._status().backends)
            matches = difflib.get_close_matches(tag, known, n=1)
            hint = f"did you mean {matches[0]!r}?" if matches else f"there are {known}"
            raise ValueError(f"backend {tag!r} does not exist; {hint}")
        return spec

    def _present(self, tag: str) -> BackendSpec | None:
        """The backend's present specification; None if it does not exist."""
        return self._backends(tag).get(tag)
