"""What the parts of an instance are called in its cluster. Pure.

Each instance has a Ray namespace of its own. Its control path is ``ray:``, that namespace, ``#`` and its id.
"""

from __future__ import annotations

from pointsman.engine.instances import RAY_PREFIX

CONTROLLER = "controller"
REPLICA_PREFIX = "replica-"
INGRESS_PREFIX = "ingress-"
METRICS_PREFIX = "metrics-"
ANONYMOUS = "pointsman-anonymous-"
NAMED = "pointsman/"


def namespace_of(name: str) -> str:
    """The namespace of a named instance."""
    return NAMED + name


def is_ours(namespace: str) -> bool:
    """Whether a namespace of the cluster is that of an instance."""
    return namespace.startswith((ANONYMOUS, NAMED))


def name_in(control_path: str) -> str:
    """Of a named instance; empty for an anonymous one."""
    namespace = namespace_in(control_path)
    return namespace.removeprefix(NAMED) if namespace.startswith(NAMED) else ""


def control_path_of(namespace: str, instance: str) -> str:
    return f"{RAY_PREFIX}{namespace}#{instance}"


def namespace_in(control_path: str) -> str:
    return control_path.removeprefix(RAY_PREFIX).rpartition("#")[0]


def instance_in(control_path: str) -> str:
    return control_path.rpartition("#")[2]


def replica_name(number: int) -> str:
    return f"{REPLICA_PREFIX}{number}"


def ingress_name(node: str, index: int) -> str:
    return f"{INGRESS_PREFIX}{index}-{node}"


def metrics_name(node: str) -> str:
    return f"{METRICS_PREFIX}{node}"
