"""Runs a controller on either engine: opens the store, adopts running replicas, accepts connections."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pointsman.controller.commands import Commands
from pointsman.controller.connections import Connections
from pointsman.controller.controller import Controller
from pointsman.controller.judging import Judging
from pointsman.controller.moving import moved
from pointsman.controller.orders import Launcher
from pointsman.controller.scaling.metrics import ScalingMetrics
from pointsman.controller.scaling.policies import Policies
from pointsman.controller.scaling.watch import ScalingWatch
from pointsman.controller.state import DEFAULT_MAX, of_this_start
from pointsman.controller.store import StoreError
from pointsman.controller.store.base import DurableStore
from pointsman.controller.waiters import StartWait
from pointsman.engine.base import Engine, EventSink
from pointsman.engine.instances import metrics_folder
from pointsman.engine.listening import url_of
from pointsman.lock.watching import watch
from pointsman.telemetry import families
from pointsman.telemetry.exporter import Exporter
from pointsman.telemetry.writer import LoopLag, MetricsWriter
from pointsman.wire.commands import ComeUp
from pointsman.wire.handover import ControllerHandover, InstanceSettings
from pointsman.wire.stream import Gate, accept

log = logging.getLogger("pointsman.controller")


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
    default_max: int = DEFAULT_MAX,
    ready: Callable[[Controller], object] = lambda controller: None,
) -> None:
    """Run the controller until ``stopped`` is set.

    Args:
        engine: creates the engine, given the callback for its events and the connections.
        listeners: listening sockets for all other processes; dialers wait in their backlog until all is ready.
        metrics: listening socket at which this node's metrics are scraped.
        node_address: address at which other nodes reach this one.
        environ: the environment variables of the instance, as of ``start``.
        wait_for_resources_s: how long a change may wait for nodes to join.
        default_max: the largest number of an autoscaled backend's replicas where its configuration gives none.
        ready: called once connections are accepted.

    Raises:
        StoreError: the store cannot be read.
    """
    loaded = store.open()
    epoch = loaded.epoch + handover.epochs
    writer = MetricsWriter.open(metrics_folder(handover.control_path), "controller")
    exporter = await _start_exporter(writer, metrics_folder(handover.control_path), metrics)
    connections = Connections(handover)
    raised = engine(lambda event: controller.process_event(event), connections)
    controller = Controller(
        engine=raised,
        store=store,
        launcher=Launcher(handover, epoch=epoch, environ=environ),
        peers=connections,
        capacity=handover.capacity,
        desired=moved(of_this_start(loaded.desired, handover.settings.start), handover.settings.move),
        replies=loaded.replies,
        epoch=epoch,
        request_timeout_s=handover.settings.request_timeout_s,
        drain_delay_s=handover.settings.drain_delay_s,
        default_max=default_max,
    )
    judging = Judging(
        controller,
        instance=handover.settings.start,
        control_path=handover.control_path,
        nodes=raised.nodes,
        writer=writer,
        exporter=exporter,
    )
    scaling = _scaling(controller, connections, raised, judging, handover.settings.name, writer)
    commands = Commands(
        handover.settings,
        controller,
        raised,
        ingresses=connections.ingresses,
        models=connections.models,
        shadows=judging.shadows,
        evidence=judging.evidence,
        exporter=exporter,
        metrics_url=url_of(metrics, node_address) if metrics is not None else "",
        wait_for_resources_s=wait_for_resources_s,
    )
    connections.serve(controller, commands, disconnected=raised.nodes.disconnected)
    # The engine first: its ``recovered`` event adopts the living replicas, so they are known when they report.
    await raised.start()
    if not handover.trial:
        judging.start()
        scaling.start()
    coming_up = asyncio.ensure_future(watch_start(controller, handover.settings))
    watching = asyncio.ensure_future(watch(commands.token_file.watched))
    servers = [await _accept(listener, connections, handover.settings.instance) for listener in listeners]
    ready(controller)
    await stopped.wait()
    coming_up.cancel()
    watching.cancel()
    await asyncio.gather(coming_up, watching, return_exceptions=True)
    await scaling.aclose()
    await judging.aclose()
    await controller.aclose()
    if exporter is not None:
        await exporter.aclose()
    await asyncio.gather(*(server.aclose() for server in servers), raised.aclose())


def _scaling(
    controller: Controller,
    connections: Connections,
    engine: Engine,
    judging: Judging,
    instance: str,
    writer: MetricsWriter | None,
) -> ScalingWatch:
    scaling = ScalingWatch(
        desired=lambda: controller.desired,
        observed=controller.observed,
        counts=connections.demand,
        update=controller.update,
        earlier=judging.evidence.earlier,
        metrics=ScalingMetrics(writer) if writer is not None else None,
        policies=Policies(),
        request=lambda needs: engine.nodes.request_nodes("scaling", needs),
        instance=instance,
    )
    judging.evidence.subscribe(scaling.heard)
    return scaling


async def watch_start(controller: Controller, settings: InstanceSettings) -> None:
    """Record that the instance has come up, once it has; with ``ready_when_told`` whoever started it does that."""
    if settings.ready_when_told or controller.desired.came_up:
        return
    await controller.wait_for(StartWait())
    try:
        await controller.change(ComeUp(secrets.token_hex(8), settings.start), b"")
    except StoreError as error:
        log.error("that the instance has come up could not be recorded: %s", error)


async def _accept(listener: socket.socket, connections: Connections, instance: str) -> Gate:
    return await accept(listener, connections, instance=instance, key_for=connections.key_for)


async def _start_exporter(
    writer: MetricsWriter | None, folder: Path, listener: socket.socket | None
) -> Exporter | None:
    """Serve the node's metrics in this process, which handles no requests."""
    if writer is None:
        return None
    writer.counter(families.PROCESS_STARTS, "controller").inc()
    LoopLag(writer.gauge(families.LOOP_LAG, "controller"))
    exporter = Exporter(folder, listener)
    await exporter.start()
    return exporter
