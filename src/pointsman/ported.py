"""What to write in place of names of Ray Serve 1.x and 2.x that do not exist here: ends of error messages."""

from __future__ import annotations

METHODS_OF_THE_CLIENT = (
    *("create_backend", "update_backend_config", "get_backend_config", "list_backends", "delete_backend"),
    *("create_endpoint", "list_endpoints", "delete_endpoint", "get_handle"),
    *("set_traffic", "shadow_traffic", "status", "shutdown"),
)
"""What some versions of 1.x, or 2.x, have in the module."""

_IN_PLACE_OF = {
    "init": "write client = serve.start()",
    "deployment": "classes need no decorator: client.deploy(name, Class, *init_args, config={...})",
    "batch": "mark the method that takes a list of requests with @serve.accept_batch",
    "delete": "write client.delete_endpoint(name) and client.delete_backend(name)",
    "get_app_handle": "write client.get_handle(name)",
    "get_deployment_handle": "write client.get_handle(name)",
    "get_replica_context": "write serve.get_current_backend_tag() and serve.get_current_replica_tag()",
}
_FIELDS = {"max_ongoing_requests": "max_concurrent_queries", "max_queued_requests": "max_queued_queries"}


def of_module(name: str) -> str:
    """The end of the sentence that the package has no such attribute; empty where there is nothing to say."""
    if name in METHODS_OF_THE_CLIENT:
        return f"; it is a method of the client: client = serve.start(), client.{name}(...)"
    return f"; {_IN_PLACE_OF[name]}" if name in _IN_PLACE_OF else ""


def of_config(field: str) -> str:
    """The end of the sentence that ``BackendConfig`` has no such field; empty where there is nothing to say."""
    return f"; it is {_FIELDS[field]!r} here" if field in _FIELDS else ""
