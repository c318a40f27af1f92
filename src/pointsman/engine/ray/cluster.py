"""This process's membership of a Ray cluster: joins the one that is meant, or starts one of its own on this machine.

A cluster that we start has token authentication, no dashboard and a small object store, and ends with this process, or
with its last instance. One that we join is left as it is.
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

import ray
from ray._raylet import Config  # type: ignore[attr-defined,unused-ignore]

from pointsman.descriptors import keep_standard_descriptors
from pointsman.engine.base import Cluster
from pointsman.exceptions import ServeException
from pointsman.model import Capacity

NEW = "local"
"""The address of a cluster that is yet to be started, as Ray itself has it."""
OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""The least that Ray accepts, nearly: no call goes through the object store."""
LOOPBACK = "127.0.0.2"
"""Ray replaces 127.0.0.1 by the address of a network card."""
PROBE_TIMEOUT_S = 20.0
_PROBE = (
    "import sys; from ray._raylet import GcsClient\n"
    "GcsClient(address=sys.argv[1]).internal_kv_get(b'pointsman', b'pointsman', timeout=5)"
)

membership = threading.Lock()
"""Held by who asks the cluster on a thread of its own: Ray starts a new one for who asks it after the shutdown."""
_started_here = False
_instances = 0


def join(cluster: Cluster, capacity: Capacity) -> None:
    """Be a member of the cluster that is meant: the one this process is in, the one at ``cluster.address``, one that
    runs on this machine, or a new one.

    Raises:
        ServeException: there is none at the address, or it lets anybody in.
        ValueError: the arguments contradict each other.
    """
    global _started_here
    if not ray.is_initialized():
        _check_folder()
        keep_standard_descriptors()
        _started_here = cluster.address == NEW or not _join_running(cluster.address)
        if _started_here:
            _start(capacity, allow_insecure=cluster.allow_insecure)
            return
    if _is_given(capacity) and not _started_here:
        raise ValueError(
            "num_cpus, num_gpus, memory and resources of start() are for a cluster that it starts itself; this one"
            " says what its nodes have"
        )
    if not cluster.allow_insecure and not _started_here:
        _refuse_open_cluster()


def is_member() -> bool:
    """Whether this process is in a cluster already."""
    return bool(ray.is_initialized())


def hold() -> None:
    """One more instance of this process needs the cluster."""
    global _instances
    _instances += 1


def let_go() -> None:
    """One less; the last one takes a cluster of our own along."""
    global _instances, _started_here
    _instances -= 1
    if not _instances and _started_here:
        _started_here = False
        with membership:
            ray.shutdown()


def started_here() -> bool:
    """Whether the cluster is our own."""
    return _started_here


def _join_running(address: str | None) -> bool:
    try:
        ray.init(address=address or "auto", logging_level="warning")
    except ConnectionError as error:
        if address is not None:
            raise ServeException(f"no Ray cluster runs at address {address!r}: {error}") from None
        return False
    return True


def _start(capacity: Capacity, *, allow_insecure: bool) -> None:
    if not allow_insecure:
        os.environ["RAY_AUTH_MODE"] = "token"
        Config.initialize("")  # this process may have read its environment already
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 leaves a busy machine's requests waiting
    given: Mapping[str, Any] = {
        "num_cpus": capacity.num_cpus,
        "num_gpus": capacity.num_gpus or None,
        "_memory": capacity.memory or None,
        "resources": capacity.custom or None,
    }
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level="warning",
        _node_ip_address=LOOPBACK if sys.platform == "linux" else None,
        **{name: value for name, value in given.items() if value is not None},
    )


def _check_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ServeException(
            "the working directory of this process was removed, and Ray needs one; change to another first"
        ) from None


def _is_given(capacity: Capacity) -> bool:
    return capacity != Capacity()


def _refuse_open_cluster() -> None:
    """Refuse a cluster that other machines reach and that lets in who has no token.

    It is tried, in a process without a token: what this process is set to says nothing about the cluster.
    """
    address = str(ray.get_runtime_context().gcs_address)
    if _is_loopback(address.rpartition(":")[0]):
        return
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH_")}
    environment["RAY_AUTH_MODE"] = "disabled"
    probe = subprocess.run(
        [sys.executable, "-c", _PROBE, address], env=environment, capture_output=True, timeout=PROBE_TIMEOUT_S
    )
    if probe.returncode == 0:
        ray.shutdown()
        raise ServeException(
            f"the Ray cluster at {address} lets in whoever reaches it, and would run their code; start it with"
            " RAY_AUTH_MODE=token, or say allow_insecure_cluster=True"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
