"""The membership of this process in a Ray cluster: joins a running one, or starts one on this machine.

A cluster that is started here has token authentication, no dashboard and a small object store, and ends with this
process or its last instance. A cluster that is joined is not changed.
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
from ray.experimental.internal_kv import internal_kv_get_gcs_client

from pointsman.engine.base import Cluster
from pointsman.exceptions import ServeException
from pointsman.wire.descriptors import keep_standard_descriptors

#: The address that asks for a new cluster, as in ``ray.init``.
NEW = "local"
#: Nearly the minimum that Ray accepts: no call goes through the object store.
OBJECT_STORE_BYTES = 80 * 1024 * 1024
#: A loopback address that Ray keeps; it replaces 127.0.0.1 by the address of a network interface.
LOOPBACK = "127.0.0.2"
PROBE_TIMEOUT_S = 20.0
_PROBE = (
    "import sys; from ray._raylet import GcsClient\n"
    "GcsClient(address=sys.argv[1]).internal_kv_get(b'pointsman', b'pointsman', timeout=5)"
)

#: Held while a side thread calls Ray, and during ``ray.shutdown``: a Ray call after that would start a new cluster.
lock = threading.Lock()
_started_here = False
#: The resources with which this process started the cluster.
_amounts: Mapping[str, Any] = {}
#: Instances of this process that need the present cluster, and which of its clusters that is, counted from 1.
_instances = 0
_membership = 0


def join(cluster: Cluster) -> None:
    """Join the cluster of this process, at ``cluster.address`` or on this machine, or start one.

    Raises:
        ServeException: there is none at the address, or it has no authentication.
        ValueError: ``cluster.amounts`` are given and a cluster exists, which this process did not start with those.
    """
    global _started_here, _amounts, _instances, _membership
    joined = False
    if not ray.is_initialized():
        # Instances of a cluster that this process has left, by whatever call, do not hold the next one.
        _instances, _membership = 0, _membership + 1
        _check_folder()
        keep_standard_descriptors()
        if cluster.address not in (None, NEW):
            _refuse_amounts(cluster.amounts, {})
        joined = cluster.address != NEW and _join_running(cluster.address)
        _started_here = not joined
        if _started_here:
            _start(cluster.amounts, allow_insecure=cluster.allow_insecure)
            _amounts = dict(cluster.amounts)
            return
    else:
        _refuse_another(cluster.address)
    try:
        _refuse_amounts(cluster.amounts, _amounts if _started_here else {})
    except ValueError:
        if joined:
            ray.shutdown()
        raise
    if not cluster.allow_insecure and not _started_here:
        _refuse_open_cluster()


def is_member() -> bool:
    """True if this process is in a cluster."""
    return bool(ray.is_initialized())


def hold() -> int:
    """Count one more instance of this process that needs the cluster. Returns what :func:`let_go` needs."""
    global _instances
    _instances += 1
    return _membership


def let_go(membership: int) -> None:
    """Count one instance less; after the last one a cluster that was started here is shut down.

    Args:
        membership: of :func:`hold`; an instance of an earlier cluster does not count.
    """
    global _instances, _started_here
    if membership != _membership:
        return
    _instances -= 1
    if not _instances and _started_here:
        _started_here = False
        with lock:
            ray.shutdown()


def started_here() -> bool:
    """True if this process has started the cluster."""
    return _started_here


def _join_running(address: str | None) -> bool:
    try:
        ray.init(address=address or "auto", logging_level="warning")
    except ConnectionError as error:
        if address is not None:
            raise ServeException(f"no Ray cluster runs at address {address!r}: {error}") from None
        return False
    return True


def _start(amounts: Mapping[str, Any], *, allow_insecure: bool) -> None:
    if not allow_insecure:
        os.environ["RAY_AUTH_MODE"] = "token"
        # A private API: this process may have read the variable already, and Ray has no other way to read it again.
        Config.initialize("")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # with Ray's 15, requests wait on a busy machine
    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level="warning",
        _node_ip_address=LOOPBACK if sys.platform == "linux" else None,
        **{"_memory" if name == "memory" else name: value for name, value in amounts.items()},
    )


def _check_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise ServeException(
            "the working directory of this process was removed, and Ray needs one; change to another first"
        ) from None


def _refuse_another(address: str | None) -> None:
    """Raise if the address is that of another cluster than this process's: a process can be in one only."""
    here = str(ray.get_runtime_context().gcs_address)
    if address == NEW:
        same = _started_here
    else:  # ports are compared only, since a host has several names and addresses
        named = address is not None and address != "auto" and "://" not in address
        same = not named or str(address).rpartition(":")[2] == here.rpartition(":")[2]
    if not same:
        raise ServeException(
            f"this process is in the Ray cluster at {here} already, and cannot be in one at {address!r}"
        )


def _refuse_amounts(given: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raise if resources are given for a cluster that runs already, unless it was started with them."""
    new = [f"{name}={value!r}" for name, value in given.items() if name not in known or known[name] != value]
    if new:
        raise ValueError(
            f"{', '.join(new)} of start() is for a cluster that it starts itself; the one that is there says what its"
            " nodes have"
        )


def _refuse_open_cluster() -> None:
    """Raise if other machines can reach the cluster and it accepts connections without a token.

    Tested by connecting from a subprocess without a token; the settings of this process prove nothing.
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


KV_NAMESPACE = b"pointsman"
TIMEOUT_S = 4.0


class KeyValueError(Exception):
    """The cluster did not answer; a write may or may not have been made."""


class KeyValues:
    """The keys of one instance in the cluster's key-value store.

    Args:
        prefix: of all its keys; the instance's namespace.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode() + b"/"

    def get(self, key: str) -> bytes | None:
        """The value, or None. Raises KeyValueError."""
        value = _ask("get", self._prefix + key.encode())
        return None if value is None else bytes(value)

    def put(self, key: str, value: bytes) -> None:
        """Write a value atomically. Raises KeyValueError."""
        _ask("put", self._prefix + key.encode(), value, True)

    def delete(self, key: str) -> None:
        """Remove a key, if it exists. Raises KeyValueError."""
        _ask("del", self._prefix + key.encode(), False)

    def clear(self) -> None:
        """Remove all keys. Raises KeyValueError."""
        _ask("del", self._prefix, True)

    def keys(self, start: str) -> list[str]:
        """All keys with that prefix. Raises KeyValueError."""
        found = _ask("keys", self._prefix + start.encode())
        return [key[len(self._prefix) :].decode() for key in found]


def _ask(verb: str, *args: Any) -> Any:
    client = internal_kv_get_gcs_client()
    if client is None:
        raise KeyValueError("this process is not in a Ray cluster")
    try:
        return getattr(client, f"internal_kv_{verb}")(*args, KV_NAMESPACE, timeout=TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - what Ray raises while its head is away has no common base
        raise KeyValueError(f"the Ray cluster did not answer within {TIMEOUT_S:g} s: {error}") from None
