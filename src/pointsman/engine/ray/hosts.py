"""The actors: thin shells in which the processes of an instance run. Their methods carry no call and no order.

    ControllerHost   the controller on a thread of its own; Ray makes it anew when it has died
    ProcessHost      an ingress or a replica on the main thread, until it ends (``guests`` has another kind)
    MetricsHost      a node's metrics; in ``exporters``

The process itself is the ``run`` of ``pointsman.<role>.__main__``, the very function that the local engine runs; it is
found by name, as there, since an engine knows nothing of what it hosts.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import logging
import os
import threading
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec
import ray

from pointsman.engine.base import Address
from pointsman.engine.child import run_process, unpack_handover
from pointsman.engine.ray.folder import NodeFolder
from pointsman.engine.ray.names import control_path_of
from pointsman.exceptions import ServeException
from pointsman.model import Environment
from pointsman.wire.address import nearest, set_node
from pointsman.wire.auth import ROLE_OPERATOR, derive_key
from pointsman.wire.handover import ClusterHandover, IngressHandover, ReplicaHandover

log = logging.getLogger("pointsman")

H = TypeVar("H", ReplicaHandover, IngressHandover)


class WhereAbouts(NamedTuple):
    """Where a controller listens."""

    node: str
    path: str
    tcp: str

    def from_here(self) -> str:
        """The address by which this process reaches it."""
        return nearest(*self)


class Running(NamedTuple):
    """A controller that runs: where it and its metrics are, and how to end its instance from any thread."""

    where: WhereAbouts
    metrics_port: int
    end: Callable[[], None]


class Introduction(NamedTuple):
    """Which process an actor is, its node, and the base URL of the metrics that it serves, if any."""

    pid: int
    node: str
    metrics: str = ""


class ControllerHost:
    """The controller's actor. Its methods are answered on Ray's own loop, which the controller does not share.

    Args:
        packed: a :class:`ClusterHandover`.
    """

    def __init__(self, packed: bytes) -> None:
        given = msgspec.msgpack.decode(packed, type=ClusterHandover)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of what Ray itself uses in there
            again = ray.get_runtime_context().was_current_actor_reconstructed
        # Who has taken the port of the metrics since then must not keep a controller from coming back.
        self._given = msgspec.structs.replace(given, metrics_strict=given.metrics_strict and not again)
        self._running: concurrent.futures.Future[Running] = concurrent.futures.Future()
        set_node(node_of_this_process())
        threading.Thread(target=self._run, name="pointsman-controller", daemon=True).start()

    def __repr__(self) -> str:
        return "controller"

    async def whereabouts(self) -> WhereAbouts:
        """Where it listens, once it does. Raises what has kept it from that."""
        return (await asyncio.wrap_future(self._running)).where

    async def address(self) -> Address:
        """What its operator must know, the key included: whoever may call this may run any code in the cluster, so what
        guards the key is the cluster's own authentication."""
        running = await asyncio.wrap_future(self._running)
        given = self._given
        return Address(
            instance=given.instance,
            control_path=control_path_of(given.namespace, given.instance),
            key=derive_key(given.master_key, ROLE_OPERATOR),
            http_host=given.http.host if given.http else None,
            http_port=given.http.port if given.http else 0,
            request_timeout_s=given.request_timeout_s,
            metrics_host=given.metrics_host,
            metrics_port=running.metrics_port,
        )

    async def attend(self) -> None:
        """Never returns: who waits for it learns of the end."""
        await asyncio.Event().wait()

    async def end(self) -> None:
        """End the instance, now that its driver goes."""
        (await asyncio.wrap_future(self._running)).end()

    def _run(self) -> None:
        module = importlib.import_module("pointsman.controller.main_ray")
        serving = module.serve_on_ray(self._given, ray.util.get_node_ip_address(), self._running.set_result)
        try:
            run_process(serving, process="controller", log_format=self._given.log_format)
        except BaseException as error:
            if self._running.done():
                log.critical("the controller failed and will be started again", exc_info=error)
                os._exit(1)
            known = isinstance(error, Exception)
            self._running.set_exception(error if known else ServeException(f"the controller did not start: {error}"))
        else:
            # For good: Ray would make it anew otherwise.
            ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


class Birth(NamedTuple):
    """What an actor is given.

    Attributes:
        label: prefixes what it prints.
        handover: packed, of what it hosts.
        env: variables that win over those of its node.
        environment: the Python environment that it runs in; None for the cluster's.
    """

    label: str
    handover: bytes
    env: dict[str, str]
    with_metrics: bool
    environment: Environment | None = None


class ProcessHost:
    """The actor of an ingress or a replica."""

    def __init__(self, birth: Birth) -> None:
        self._birth = birth
        set_node(node_of_this_process())

    def __repr__(self) -> str:
        return self._birth.label

    def introduce(self) -> Introduction:
        """Who it is; asked once, before it is anything."""
        return Introduction(os.getpid(), node_of_this_process())

    def be_replica(self) -> None:
        """Run a replica to its end, which is this actor's end as well."""
        handover = self._enter(ReplicaHandover, "replica")
        self._be("replica", self._placed(handover))
        self._leave_replica(handover.number)
        ray.actor.exit_actor()

    def be_ingress(self) -> None:
        """Run an ingress to its end, which is this actor's end as well.

        Raises:
            OSError: the port cannot be bound.
        """
        handover = self._enter(IngressHandover, "ingress")
        self._be("ingress", handover)
        self._folder.leave()
        ray.actor.exit_actor()

    def attend(self) -> None:
        """Comes after ``be_...``, so that it never returns: who waits for it learns of the end."""

    def _enter(self, handover_type: type[H], role: str) -> H:
        """Be in the instance's folder on this node from now on; returns what was handed over."""
        handover = unpack_handover(self._birth.handover, handover_type)
        self._folder = NodeFolder(handover.instance)
        self._folder.enter(with_metrics=self._birth.with_metrics)
        self._folder.say_where_logs_are(role, self._birth.label)
        return handover

    def _placed(self, handover: ReplicaHandover) -> ReplicaHandover:
        """The same with all that was not known before Ray had a process on this node."""
        return msgspec.structs.replace(
            handover,
            node=node_of_this_process(),
            address=self._folder.socket(f"r/{handover.number}"),
            tcp_host=ray.util.get_node_ip_address(),
        )

    def _be(self, role: str, handover: Any) -> None:
        os.environ.update(self._birth.env)
        importlib.import_module(f"pointsman.{role}.__main__").run(handover)

    def _leave_replica(self, number: int) -> None:
        self._folder.forget(*(f"r/{number}{suffix}" for suffix in ("", ".started", ".host")))
        self._folder.leave()


def node_of_this_process() -> str:
    return str(ray.get_runtime_context().get_node_id())
