"""Starts an instance on a Ray cluster, from the driver."""

from __future__ import annotations

import atexit
import os
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec
import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pointsman.engine.base import Address, Plan
from pointsman.engine.listening import bind, listen_for_console, listen_for_metrics
from pointsman.engine.ray import cluster
from pointsman.engine.ray.folder import ANONYMOUS, CONTROLLER, namespace_of
from pointsman.engine.ray.hosts import ControllerHost
from pointsman.engine.ray.lookup import (
    controller_of,
    operator_address,
)
from pointsman.engine.ray.nodes import alive_nodes
from pointsman.exceptions import ServeException
from pointsman.wire.address import set_node
from pointsman.wire.handover import ClusterHandover, ConsoleSettings, HTTPSettings, MetricsPort

#: Environment variables of the driver that replicas on all nodes get.
PASSED_ON = ("OMP_NUM_THREADS",)


class RayInstance:
    """An instance that this process has started: the Ray engine's :class:`~pointsman.engine.base.Raised`.

    Args:
        address: the operator's address.
        controller: the controller's actor. That of a bound instance is owned by this process, so Ray ends it with this
            process.
        port: a bound socket that reserves the HTTP port until the ingresses listen there.
        console: one that reserves the console's port, also while the console is started again.
        bound: whether the instance ends with this process.
        membership: of ``cluster.hold``.
    """

    def __init__(
        self,
        address: Address,
        controller: Any,
        *,
        port: socket.socket | None,
        console: socket.socket | None,
        bound: bool,
        membership: int,
    ) -> None:
        self.address = address
        self.bound = bound
        self._controller = controller
        self._owner = os.getpid()
        self._port = port
        self._console = console
        self._membership = membership
        self._over = False
        self._released = False
        self._at_exit: Callable[[], object] | None = None

    @property
    def over(self) -> bool:
        return self._over

    def before_exit(self, action: Callable[[], object]) -> None:
        """Register ``action`` with atexit. It runs before Ray's own handler, which leaves the cluster, since that was
        registered earlier."""
        self._at_exit = action
        atexit.register(action)

    def let_go(self) -> None:
        if self.bound and not self._over and os.getpid() == self._owner and ray.is_initialized():
            try:
                self._controller.end.remote()
            except RayError:
                pass  # it has ended already

    def wait_for_end(self, timeout_s: float) -> bool:
        """Wait for the controller, which exits last; kill it at the timeout."""
        if self._over or os.getpid() != self._owner:
            return True
        self.serves()
        if self._console is not None:
            self._console.close()
        in_time = ray.is_initialized() and self._has_ended(timeout_s)
        if not in_time and ray.is_initialized():
            ray.kill(self._controller, no_restart=True)
        self._over = True
        if self._at_exit is not None:
            atexit.unregister(self._at_exit)
        return in_time

    def release(self) -> None:
        """Leave the cluster, if this process started it and has no other instance there."""
        if not self._released and os.getpid() == self._owner:
            self._released = True
            cluster.let_go(self._membership)

    def serves(self) -> None:
        """Release the reserved port: the ingresses listen there."""
        if self._port is not None:
            self._port.close()
            self._port = None

    def refusal(self) -> str:
        """Empty: the creation of the actor raises the reason."""
        return ""

    def _has_ended(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                ray.get(self._controller.attend.remote(), timeout=max(0.1, deadline - time.monotonic()))
            except ActorDiedError:
                return True
            except RayError:
                time.sleep(0.05)  # Ray restarts it, or does not answer
        return False


def raise_instance(plan: Plan) -> RayInstance:
    """Join the cluster, reserve the port, create the controller's actor. Returns when the controller can be reached.

    Raises:
        OSError: the port cannot be bound on this node, or the host not resolved; names both.
        ServeException: there is no cluster, or it has no authentication; a live instance has that name; or the
            controller cannot start.
    """
    cluster.join(plan.cluster)
    membership = cluster.hold()
    try:
        return _raise(plan, membership)
    except BaseException:
        cluster.let_go(membership)
        raise


def _raise(plan: Plan, membership: int) -> RayInstance:
    if not plan.bound and cluster.started_here():
        raise ServeException(
            "a detached instance outlives its script, and a Ray cluster that the script starts does not: start one with"
            " `ray start --head`, then give start() its address"
        )
    settings = plan.settings
    namespace = namespace_of(settings.name) if settings.name else ANONYMOUS + secrets.token_hex(8)
    if controller_of(namespace) is not None:
        raise ServeException(
            f"an instance named {settings.name!r} is running; use connect({settings.name!r}, engine='ray') to attach to"
            " it"
        )
    home = str(ray.get_runtime_context().get_node_id())
    set_node(home)
    port = _take_port(settings.http) if settings.http else None
    console = _take_console_port(settings.console) if settings.console else None
    if console is not None:
        settings = settings.with_console_at(console.getsockname()[1])
    if port is not None:
        settings = settings.on_port(port.getsockname()[1])
    if settings.metrics is not None:
        metrics = msgspec.structs.replace(settings.metrics, port=_free_port(settings.metrics))
        settings = msgspec.structs.replace(settings, metrics=metrics)
    given = ClusterHandover(
        settings=settings,
        namespace=namespace,
        home=home,
        every_node=plan.every_node,
        environ={name: os.environ[name] for name in PASSED_ON if name in os.environ},
        wait_for_resources_s=plan.cluster.wait_for_resources_s,
    )
    address, controller = _make_controller(given, bound=plan.bound)
    return RayInstance(address, controller, port=port, console=console, bound=plan.bound, membership=membership)


def _make_controller(given: ClusterHandover, *, bound: bool) -> tuple[Address, Any]:
    head = next(iter(alive_nodes(ray.nodes())))
    controller = (
        ray.remote(ControllerHost)
        .options(
            name=CONTROLLER,
            namespace=given.namespace,
            lifetime=None if bound else "detached",
            max_restarts=-1,
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(head, soft=False),
        )
        .remote(msgspec.msgpack.encode(given))
    )
    try:
        return operator_address(controller), controller
    except BaseException as error:
        ray.kill(controller, no_restart=True)
        if isinstance(error, RayTaskError):
            raise ServeException(str(error.cause)) from None
        raise


def _take_port(http: HTTPSettings) -> socket.socket:
    """Reserve the port: bound, so that no other process takes it, and with SO_REUSEPORT, so that an ingress can."""
    with bind(http.host, http.port) as free:  # without SO_REUSEPORT first: fails if any process listens there
        port = free.getsockname()[1]
    return bind(http.host, port, shared=True)


def _take_console_port(wanted: ConsoleSettings) -> socket.socket:
    """As :func:`_take_port`; another port if the wanted one is in use and only a default."""
    with listen_for_console(wanted) as free:
        port = free.getsockname()[1]
    return bind(wanted.host, port, shared=True)


def _free_port(wanted: MetricsPort) -> int:
    # Chosen here and not in the controller, so that a restarted controller listens on the same port.
    with listen_for_metrics(wanted) as free:
        return int(free.getsockname()[1])
