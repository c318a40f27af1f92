"""What to write in place of names of other servers that do not exist here: ends of error messages.

Of Ray Serve 1.x and 2.x, LitServe, BentoML and TorchServe.
"""

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
    "ServeRequest": "write from pointsman.utils import ServeRequest",
    "get_replica_context": "write serve.get_current_backend_tag() and serve.get_current_replica_tag()",
}
_CLASS = "a model is a class that loads in its constructor and answers in __call__"
_OF_OTHERS = {
    **dict.fromkeys(("LitAPI", "service"), f"{_CLASS}, without a base or decorator"),
    "LitServer": "write client = serve.start() and client.deploy(name, Class, route='/predict')",
    "api": "annotate the parameter of __call__, or of a method of a FastAPI app in serve.ingress(app)",
    "depends": "write serve.connect().get_handle(name) in the constructor",
    **dict.fromkeys(("asgi_app", "mount_asgi_app"), "write serve.asgi(app)"),
}
"""LitServe and BentoML. (Handlers of TorchServe import nothing that could be taken for ours.)"""

_FIELDS = {
    "max_ongoing_requests": "'max_concurrent_queries'",
    "max_queued_requests": "'max_queued_queries'",
    **dict.fromkeys(("workers", "workers_per_device"), "'num_replicas'"),
    **dict.fromkeys(("minWorkers", "maxWorkers"), "'num_replicas', or min_replicas and max_replicas of 'autoscaling'"),
    "batch_timeout": "'batch_wait_timeout'",
    "maxBatchDelay": "'batch_wait_timeout', in seconds",
    "max_latency_ms": "'target_latency_ms'",
    **dict.fromkeys(("batch_size", "batchSize"), "'max_batch_size'"),
    **dict.fromkeys(("concurrency", "max_concurrency"), "'max_concurrent_queries', and what goes beyond it waits"),
    **dict.fromkeys(("timeout", "responseTimeout"), "request_timeout_s, which client.deploy and create_endpoint take,"),
}


def of_module(name: str) -> str:
    """The end of the sentence that the package has no such attribute; empty where there is nothing to say."""
    if name in METHODS_OF_THE_CLIENT:
        return f"; it is a method of the client: client = serve.start(), client.{name}(...)"
    instead = _IN_PLACE_OF.get(name) or _OF_OTHERS.get(name)
    return f"; {instead}" if instead else ""


def of_config(field: str) -> str:
    """The end of the sentence that ``BackendConfig`` has no such field; empty where there is nothing to say."""
    return f"; it is {_FIELDS[field]} here" if field in _FIELDS else ""
