"""Operations on endpoints."""

from __future__ import annotations

from typing import Any

from pointsman import arguments
from pointsman.arguments import check_timeout
from pointsman.client.operations import Operations, author, new_id
from pointsman.model import DEFAULT_SHARD_KEY
from pointsman.policy.shardkey import check_source
from pointsman.statusview import endpoint_view
from pointsman.wire.commands import CreateEndpoint, DeleteEndpoint


class EndpointOperations(Operations):
    """Endpoints come, go and are listed."""

    def create_endpoint(
        self,
        endpoint_name: str,
        *,
        backend: str | None = None,
        route: str | None = None,
        methods: list[str] | None = None,
        idempotent: bool = False,
        shard_key: str = DEFAULT_SHARD_KEY,
        request_timeout_s: float | None = None,
    ) -> None:
        """Give a backend a name that can be called, and perhaps an HTTP route.

        Args:
            endpoint_name: 1-200 printable characters.
            backend: tag of the backend that gets all traffic at first.
            route: HTTP path, exact (``/digits``) or a template (``/x/{id}``, ``/files/{rest:path}``); None for
                handles only.
            methods: HTTP methods; default ``["GET"]``.
            shard_key: where an HTTP request carries the key that keeps it with one backend: ``"header:NAME"``,
                ``"cookie:NAME"`` or ``"query:NAME"``; default the header ``X-SERVE-SHARD-KEY``.
            request_timeout_s: deadline of a call in seconds, to the first byte of its answer; None for the instance's.
            idempotent: whether a request that had started may be repeated when its replica dies.

        Raises:
            TypeError, ValueError: an argument is wrong, the backend unknown, or name or route taken.
            TimeoutError: not every HTTP server serves the route after 60 s.
        """
        name = arguments.check_object_name(endpoint_name, "endpoint_name")
        if not isinstance(backend, str):
            raise TypeError(f"backend must be the tag of a backend, a str, not {backend!r}")
        route = arguments.check_route(route)
        command = CreateEndpoint(
            new_id(),
            name,
            backend,
            route,
            arguments.check_methods(methods, ("GET",)),
            bool(idempotent),
            check_source(shard_key),
            check_timeout(request_timeout_s, "request_timeout_s"),
            by=author(),
        )
        self._change(command)

    def delete_endpoint(self, endpoint: str) -> None:
        """Remove an endpoint; its backends stay. An unknown one is logged and ignored."""
        self._change(DeleteEndpoint(new_id(), arguments.check_object_name(endpoint, "endpoint")))

    def list_endpoints(self) -> dict[str, dict[str, Any]]:
        """``{name: {"route", "methods", "traffic", "shadows"}}``."""
        return {name: endpoint_view(spec) for name, spec in self._status().endpoints.items()}
