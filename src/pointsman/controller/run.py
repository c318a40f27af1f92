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
from pointsman.controller.evidence import EvidenceReader
from pointsman.controller.orders import Launcher
from pointsman.controller.rollouts.metrics import RolloutMetrics
from pointsman.controller.rollouts.watch import RolloutWatch
from pointsman.controller.shadows import Shadows
from pointsman.controller.state import Desired, of_this_start
from pointsman.controller.store import StoreError
from pointsman.controller.store.base import DurableStore
from pointsman.controller.waiters import StartWait
from pointsman.engine.base import Engine, EventSink
from pointsman.engine.instances import metrics_folder, pairs_folder, tallies_folder
from pointsman.engine.listening import url_of
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
        ready: called once connections are accepted.

    Raises:
        StoreError: the store cannot be read.
    """
    loaded = store.open()
    writer = MetricsWriter.open(metrics_folder(handover.control_path), "controller")
    exporter = await _start_exporter(writer, metrics_folder(handover.control_path), metrics)
    connections = Connections(handover)
    raised = engine(lambda event: controller.process_event(event), connections)
    controller = Controller(
        engine=raised,
        store=store,
        launcher=Launcher(handover, epoch=loaded.epoch, environ=environ),
        peers=connections,
        capacity=handover.capacity,
        desired=of_this_start(loaded.desired, handover.settings.instance),
        replies=loaded.replies,
        epoch=loaded.epoch,
        request_timeout_s=handover.settings.request_timeout_s,
        drain_delay_s=handover.settings.drain_delay_s,
    )
    shadows = Shadows(pairs_folder(handover.control_path), raised.nodes, lambda: controller.desired)
    evidence = EvidenceReader(
        tallies_folder(handover.control_path),
        nodes=raised.nodes,
        exists=lambda key: key.endpoint in controller.desired.endpoints and key.backend in controller.desired.backends,
        pairs=lambda: shadows.pairs,
        metrics=lambda: metrics_watched(controller.desired),
        exporter=exporter,
    )
    rollouts = RolloutWatch(
        handover.settings.instance,
        desired=lambda: controller.desired,
        observed=controller.observed,
        update=controller.update,
    )
    evidence.subscribe(rollouts.heard)
    if writer is not None:
        shown = RolloutMetrics(writer)
        evidence.subscribe(lambda now: shown.show(controller.desired, now.pairs, shadows.above_noise()))
    commands = Commands(
        handover.settings,
        controller,
        raised,
        ingresses=connections.ingresses,
        shadows=shadows,
        evidence=evidence,
        exporter=exporter,
        metrics_url=url_of(metrics, node_address) if metrics is not None else "",
        wait_for_resources_s=wait_for_resources_s,
    )
    connections.serve(controller, commands, disconnected=raised.nodes.disconnected)
    # The engine first: its ``recovered`` event adopts the living replicas, so they are known when they report.
    await raised.start()
    tasks = (evidence.run(), watch_start(controller, handover.settings), shadows.run())
    beside = [asyncio.ensure_future(task) for task in tasks]
    beside[0].add_done_callback(_start_again_if_failed)
    servers = [await _accept(listener, connections, handover.settings.instance) for listener in listeners]
    ready(controller)
    await stopped.wait()
    for task in beside:
        task.cancel()
    await asyncio.gather(*beside, return_exceptions=True)
    await rollouts.aclose()
    await shadows.aclose()
    await controller.aclose()
    await evidence.aclose()
    if exporter is not None:
        await exporter.aclose()
    await asyncio.gather(*(server.aclose() for server in servers), raised.aclose())


async def watch_start(controller: Controller, settings: InstanceSettings) -> None:
    """Record that the instance has come up, once it has; with ``ready_when_told`` whoever started it does that."""
    if settings.ready_when_told or controller.desired.came_up:
        return
    await controller.wait_for(StartWait())
    try:
        await controller.change(ComeUp(secrets.token_hex(8), settings.instance), b"")
    except StoreError as error:
        log.error("that the instance has come up could not be recorded: %s", error)


def metrics_watched(desired: Desired) -> frozenset[str]:
    """The metrics of user code by which rollouts are judged."""
    live = [rollout for rollout in desired.rollouts.values() if rollout.is_live]
    return frozenset(name for rollout in live for name in rollout.plan.gates.get("metrics", ()))


async def _accept(listener: socket.socket, connections: Connections, instance: str) -> Gate:
    return await accept(listener, connections, instance=instance, key_for=connections.key_for)


def _start_again_if_failed(reading: asyncio.Future[None]) -> None:
    if not reading.cancelled() and reading.exception() is not None:
        # A bug: without evidence nothing is judged, and a new controller may read what this one could not.
        log.critical("what routers have counted is not read any more", exc_info=reading.exception())
        raise SystemExit(1)


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
