"""Main of a controller on the Ray engine. Its store is the cluster's key-value store, or a file in ``state_dir``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pointsman.controller.controller import Controller
from pointsman.controller.run import serve
from pointsman.controller.store import Store
from pointsman.controller.store.ray import KeyValueStore
from pointsman.engine.folder import forget_state, lock_state_folder
from pointsman.engine.listening import listen_for_metrics
from pointsman.engine.orders import DRIVER_GONE_DRAIN_S
from pointsman.engine.ray.cluster import KeyValues
from pointsman.engine.ray.engine import RayEngine
from pointsman.engine.ray.folder import NodeFolder, control_path_of
from pointsman.engine.ray.hosts import Running
from pointsman.engine.ray.lookup import WhereAbouts
from pointsman.model import Capacity
from pointsman.wire.address import node_here, tcp_address
from pointsman.wire.handover import ClusterHandover, ControllerHandover
from pointsman.wire.stream import listen_private, listen_tcp


async def serve_on_ray(given: ClusterHandover, host: str, running: Callable[[Running], object]) -> None:
    """Run the controller until the instance has ended.

    Args:
        host: this node's address.
        running: called once connections are accepted.

    Raises:
        ServeException: the state folder cannot be used.
        StoreError: the store cannot be read.
        OSError: the metrics port was given on purpose and cannot be bound.
    """
    settings = given.settings
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    folder = NodeFolder(settings.instance)
    folder.enter(with_metrics=settings.metrics is not None)
    folder.say_where_logs_are("controller", "controller")

    def end_soon(controller: Controller) -> None:
        loop.call_soon_threadsafe(partial(controller.shutdown, DRIVER_GONE_DRAIN_S, forget=False))

    forget = False

    def ended(and_forget: bool) -> None:
        nonlocal forget
        forget = and_forget
        stopped.set()

    control = listen_private(folder.socket("ctl"))
    remote = listen_tcp(host)  # for processes on other nodes; those of this node use the Unix socket
    where = WhereAbouts(node_here(), control.getsockname(), tcp_address(*remote.getsockname()[:2]))
    metrics = listen_for_metrics(settings.metrics) if settings.metrics is not None else None
    metrics_port = metrics.getsockname()[1] if metrics is not None else 0
    if settings.state_dir:
        lock_state_folder(Path(settings.state_dir))  # held for as long as this process lives
    await serve(
        ControllerHandover(
            settings, str(folder.path), control_path_of(given.namespace, settings.instance), Capacity(nodes={})
        ),
        store=Store(Path(settings.state_dir) / "state.db")
        if settings.state_dir
        else KeyValueStore(KeyValues(given.namespace)),
        engine=lambda events, peers: RayEngine(events, peers, given, on_end=ended),
        listeners=[control, remote],
        stopped=stopped,
        metrics=metrics,
        node_address=host,
        environ=given.environ,
        wait_for_resources_s=given.wait_for_resources_s,
        ready=lambda controller: running(Running(where, metrics_port, partial(end_soon, controller))),
    )
    if settings.state_dir and forget:
        forget_state(Path(settings.state_dir))
    folder.forget("ctl")
    folder.leave()
