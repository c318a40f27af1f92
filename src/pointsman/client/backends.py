"""Operations on backends, and the one that makes backend and endpoint together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pointsman import config as options
from pointsman.client.operations import Operations, author, new_id, origin_here
from pointsman.config import BackendConfig
from pointsman.deadline import check_timeout
from pointsman.policy.shardkey import check_source
from pointsman.resources import parse_actor_options
from pointsman.usercode import code_digest, look_at, pack_code
from pointsman.wire.commands import CreateBackend, DeleteBackend, Deploy, UpdateBackendConfig


class BackendOperations(Operations):
    """Backends come, change, go and are listed."""

    def create_backend(
        self,
        backend_tag: str,
        func_or_class: Callable[..., Any] | type,
        *actor_init_args: Any,
        ray_actor_options: Mapping[str, Any] | None = None,
        config: BackendConfig | Mapping[str, Any] | None = None,
    ) -> None:
        """Start replicas of a function or class; returns when all of them are ready.

        Args:
            backend_tag: 1-200 printable characters without ``/``.
            func_or_class: called with one request (or a list of them, when marked by ``@accept_batch``).
            actor_init_args: positional arguments of the class's constructor.
            ray_actor_options: resources of each replica: ``num_cpus``, ``num_gpus``, ``memory``, ``resources``,
                ``env_vars``.
            config: a :class:`BackendConfig` or a dict of its fields.

        Raises:
            TypeError, ValueError: an argument is wrong, or the tag is taken.
            InsufficientResourcesError: there is not enough for all replicas.
            BackendStartError: the constructor failed on every try; its cause is the user's exception.
        """
        tag = options.check_object_name(backend_tag, "backend_tag")
        spec = options.config_spec(config)
        resources = parse_actor_options(ray_actor_options)
        traits = look_at(func_or_class, actor_init_args)
        blob = pack_code(func_or_class, actor_init_args)
        command = CreateBackend(new_id(), tag, code_digest(blob), origin_here(), traits, spec, resources)
        self._change(command, blob, backend=tag)

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
        tag = options.check_object_name(backend_tag, "backend_tag")
        self._change(UpdateBackendConfig(new_id(), tag, changes, user_config), backend=tag)

    def get_backend_config(self, backend_tag: str) -> BackendConfig:
        """A backend's config.

        Raises:
            ValueError: there is no such backend.
        """
        backends = self.list_backends()
        if backend_tag not in backends:
            raise ValueError(f"backend {backend_tag!r} does not exist; there are {sorted(backends)}")
        return backends[backend_tag]

    def list_backends(self) -> dict[str, BackendConfig]:
        """Each backend's config, by tag."""
        return {tag: options.config_from_spec(view.spec.config) for tag, view in self._status().backends.items()}

    def delete_backend(self, backend_tag: str, force: bool = False) -> None:
        """Remove a backend that no endpoint uses; returns when its replicas are gone. An unknown one is logged and
        ignored.

        Args:
            force: kill the replicas at once instead of letting them finish what they run.

        Raises:
            ValueError: an endpoint uses it.
        """
        tag = options.check_object_name(backend_tag, "backend_tag")
        self._change(DeleteBackend(new_id(), tag, bool(force)), backend=tag, gone=True)

    def deploy(
        self,
        name: str,
        func_or_class: Callable[..., Any] | type,
        *init_args: Any,
        route: str | None = None,
        methods: list[str] | None = None,
        config: BackendConfig | Mapping[str, Any] | None = None,
        ray_actor_options: Mapping[str, Any] | None = None,
        idempotent: bool | None = None,
        shard_key: str | None = None,
        request_timeout_s: float | None = None,
    ) -> None:
        """Make backend and endpoint under one name; on a name that exists, replace the code without losing a request.

        What is left out keeps its present value on a re-deploy; on a new name ``methods`` are GET and POST, and without
        ``route`` the endpoint is for handles only.

        Raises:
            TypeError, ValueError: an argument is wrong, or the endpoint of that name uses other backends.
            InsufficientResourcesError, BackendStartError: the new version cannot come up; all is as it was.
        """
        options.check_object_name(name, "name")
        changes, user_config = options.config_changes(config, "config")
        resources = parse_actor_options(ray_actor_options) if ray_actor_options is not None else None
        traits = look_at(func_or_class, init_args)
        blob = pack_code(func_or_class, init_args)
        command = Deploy(
            new_id(),
            name,
            code_digest(blob),
            origin_here(),
            traits,
            changes,
            user_config,
            resources,
            options.check_route(route),
            options.check_methods(methods, None),
            idempotent,
            check_source(shard_key) if shard_key is not None else None,
            check_timeout(request_timeout_s, "request_timeout_s"),
            by=author(),
        )
        self._change(command, blob, backend=name)
