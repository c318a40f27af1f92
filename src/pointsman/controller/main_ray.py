"""A controller of the Ray engine: its store is the cluster's (or a file), its engine the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pointsman.controller.controller import Controller
from pointsman.controller.run import serve
from pointsman.controller.store import Store
from pointsman.controller.store.ray import KeyValueStore
from pointsman.engine.base import MetricsPort
from pointsman.engine.folder import forget_state, lock_state_folder
from pointsman.engine.listening import listen_for_metrics
from pointsman.engine.ray.cluster import KeyValues
from pointsman.engine.ray.engine import RayEngine
from pointsman.engine.ray.folder import NodeFolder, control_path_of
from pointsman.engine.ray.hosts import Running
from pointsman.engine.ray.lookup import WhereAbouts
from pointsman.model import Capacity
from pointsman.wire.address import node_here, tcp_address
from pointsman.wire.handover import ClusterHandover, ControllerHandover
from pointsman.wire.stream import listen_private, listen_tcp

DRIVER_GONE_DRAIN_S = 1.0
"""How long requests may still run once the driver of a bound instance goes."""


async def serve_on_ray(given: ClusterHandover, host: str, running: Callable[[Running], object]) -> None:
    """Be the controller until the instance has ended.

    Args:
        host: this node's address.
        running: told once everyone is let in.

    Raises:
        ServeException: the state folder cannot be used.
        StoreError: the store cannot be read.
        OSError: the metrics port was given on purpose and cannot be bound.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    folder = NodeFolder(given.instance)
    folder.enter(with_metrics=given.metrics_host is not None)
    folder.say_where_logs_are("controller", "controller")

    def end_soon(controller: Controller) -> None:
        loop.call_soon_threadsafe(partial(controller.shutdown, DRIVER_GONE_DRAIN_S, forget=False))

    forget = False

    def ended(and_forget: bool) -> None:
        nonlocal forget
        forget = and_forget
        stopped.set()

    control = listen_private(folder.socket("ctl"))
    abroad = listen_tcp(host)
    where = WhereAbouts(node_here(), control.getsockname(), tcp_address(*abroad.getsockname()[:2]))
    metrics = None
    if given.metrics_host is not None:
        metrics = listen_for_metrics(MetricsPort(given.metrics_host, given.metrics_port, given.metrics_strict))
    metrics_port = metrics.getsockname()[1] if metrics is not None else 0
    if given.state_dir:
        lock_state_folder(Path(given.state_dir))  # held for as long as this process lives
    await serve(
        _handover(given, folder),
        store=Store(Path(given.state_dir) / "state.db")
        if given.state_dir
        else KeyValueStore(KeyValues(given.namespace)),
        engine=lambda events, peers: RayEngine(events, peers, given, on_end=ended),
        listeners=[control, abroad],
        stopped=stopped,
        metrics=metrics,
        node_address=host,
        environ=given.environ,
        wait_for_resources_s=given.wait_for_resources_s,
        ready=lambda controller: running(Running(where, metrics_port, partial(end_soon, controller))),
    )
    if given.state_dir and forget:
        forget_state(Path(given.state_dir))
    folder.forget("ctl")
    folder.leave()


def _handover(given: ClusterHandover, folder: NodeFolder) -> ControllerHandover:
    return ControllerHandover(
        instance=given.instance,
        name=given.name,
        folder=str(folder.path),
        state_dir=given.state_dir,
        master_key=given.master_key,
        capacity=Capacity(nodes={}),
        ingresses=given.ingresses,
        request_timeout_s=given.request_timeout_s,
        http_host=given.http.host if given.http else None,
        http_port=given.http.port if given.http else 0,
        control_path=control_path_of(given.namespace, given.instance),
        log_format=given.log_format,
        client_in_replicas=given.client_in_replicas,
        start_options=given.start_options,
    )
