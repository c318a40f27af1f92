"""How a controller runs, whichever engine hosts it: open the store, take over what lives, let everyone in."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pointsman.controller.commands import Commands
from pointsman.controller.connections import Connections
from pointsman.controller.controller import Controller
from pointsman.controller.orders import Launcher
from pointsman.controller.store.base import DurableStore
from pointsman.engine.base import Engine, EventSink
from pointsman.engine.instances import metrics_folder
from pointsman.engine.listening import url_of
from pointsman.telemetry import families
from pointsman.telemetry.exporter import Exporter
from pointsman.telemetry.writer import LoopLag, MetricsWriter
from pointsman.wire.handover import ControllerHandover
from pointsman.wire.stream import accept


async def serve(
    handover: ControllerHandover,
    *,
    store: DurableStore,
    engine: Callable[[EventSink, Connections], Engine],
    listeners: Sequence[socket.socket],
    stopped: asyncio.Event,
    metrics: socket.socket | None = None,
    node_address: str = "127.0.0.1",
    environ: Mapping[str, str] = os.environ,
    wait_for_resources_s: float = 0.0,
    ready: Callable[[Controller], object] = lambda controller: None,
) -> None:
    """Be the controller until ``stopped`` is set.

    Args:
        engine: makes the engine, given where its events go and the connections.
        listeners: where everyone dials; connections wait there until all is ready.
        metrics: where this node's metrics are scraped.
        node_address: at which others reach this node.
        environ: the instance's environment, as of ``start``.
        wait_for_resources_s: how long a change may wait for nodes to join.
        ready: called once everyone is let in.

    Raises:
        StoreError: the store cannot be read.
    """
    loaded = store.open()
    exporter = await _start_exporter(metrics_folder(handover.control_path), metrics)
    connections = Connections(handover)
    raised = engine(lambda event: controller.process_event(event), connections)
    controller = Controller(
        engine=raised,
        store=store,
        launcher=Launcher(handover, epoch=loaded.epoch, environ=environ),
        peers=connections,
        capacity=handover.capacity,
        desired=loaded.desired,
        replies=loaded.replies,
        epoch=loaded.epoch,
        request_timeout_s=handover.settings.request_timeout_s,
    )
    commands = Commands(
        handover.settings,
        controller,
        raised,
        ingresses=connections.ingresses,
        exporter=exporter,
        metrics_url=url_of(metrics, node_address) if metrics is not None else "",
        wait_for_resources_s=wait_for_resources_s,
    )
    connections.serve(controller, commands, disconnected=raised.nodes.disconnected)
    await raised.start()
    gates = [
        await accept(listener, connections, instance=handover.settings.instance, key_for=connections.key_for)
        for listener in listeners
    ]
    ready(controller)
    await stopped.wait()
    await controller.aclose()
    if exporter is not None:
        await exporter.aclose()
    await asyncio.gather(*(gate.aclose() for gate in gates), raised.aclose())


async def _start_exporter(folder: Path, listener: socket.socket | None) -> Exporter | None:
    """Serve the node's metrics from here: the controller is on no request's way."""
    writer = MetricsWriter.open(folder, "controller")
    if writer is None:
        return None
    writer.counter(families.PROCESS_STARTS, "controller").inc()
    LoopLag(writer.gauge(families.LOOP_LAG, "controller"))
    exporter = Exporter(folder, listener)
    await exporter.start()
    return exporter
