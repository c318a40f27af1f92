"""The instance's status as plain dicts, ready for JSON."""

from __future__ import annotations

from typing import Any

from pointsman.model import EndpointSpec
from pointsman.wire.commands import BackendView, Status


def status_view(status: Status, http_address: str | None) -> dict[str, Any]:
    """What ``Client.status`` returns."""
    return {
        "name": status.name,
        "version": status.version,
        "controller_pid": status.pid,
        "http": {
            "address": http_address,
            "ingresses": [{"pid": i.pid or None, "up_to_date": i.up_to_date} for i in status.ingresses],
        },
        "metrics": [{"node": node, "address": url} for node, url in status.metrics.items()],
        "endpoints": {
            name: {**endpoint_view(spec), "queued": None if status.queued is None else status.queued.get(name, 0)}
            for name, spec in status.endpoints.items()
        },
        "backends": {tag: _backend_view(view) for tag, view in status.backends.items()},
    }


def endpoint_view(spec: EndpointSpec) -> dict[str, Any]:
    """One endpoint, as ``Client.list_endpoints`` shows it."""
    return {
        "route": spec.route,
        "methods": list(spec.methods),
        "traffic": dict(spec.policy.weights),
        "shadows": dict(spec.policy.shadows),
    }


def _backend_view(view: BackendView) -> dict[str, Any]:
    failure = view.failure
    environment = view.spec.origin.environment
    return {
        "state": view.state,
        "replicas_wanted": view.spec.config.num_replicas,
        "replicas_running": view.ready,
        "replicas": [
            # Not 0 for one that is being launched: kill(0) means the whole group of the process that kills.
            {"tag": r.tag, "pid": r.pid or None, "state": r.state, "gpus": list(r.gpus), "remark": r.remark}
            for r in view.replicas
        ],
        "environment": environment
        and {
            "kind": environment.kind,
            "name": environment.name,
            "python": environment.python,
            "version": environment.version,
        },
        "pythons": list(view.pythons),
        "failure": failure
        and {
            "reason": failure.reason.value,
            "text": failure.text,
            "traceback": failure.traceback,
            "failures": failure.failures,
        },
    }
