"""A controller process: opens the store, takes over what lives, serves the control socket."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from pathlib import Path

from pointsman.controller.controller import Controller
from pointsman.controller.launch import Launcher
from pointsman.controller.service import Service
from pointsman.controller.store import Store, StoreError
from pointsman.engine.child import Lifeline, run_process
from pointsman.engine.folder import InstanceFolder
from pointsman.engine.link import SupervisorLink
from pointsman.telemetry import families
from pointsman.telemetry.book import Book
from pointsman.telemetry.exporter import Exporter
from pointsman.telemetry.lag import LoopLag
from pointsman.wire.handover import ControllerHandover
from pointsman.wire.stream import acceptor

log = logging.getLogger("pointsman.controller")


async def serve(
    handover: ControllerHandover, listener: socket.socket, inherited: socket.socket, metrics: socket.socket | None
) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopped.set)
    store = Store(Path(handover.state_dir or handover.folder) / "state.db")
    try:
        loaded = store.open()
    except StoreError as error:
        log.critical("%s", error)
        sys.exit(3)
    exporter = await _start_exporter(InstanceFolder(Path(handover.folder)).metrics, metrics)
    service = Service(handover, exporter)
    engine = SupervisorLink(lambda event: controller.process_event(event))
    controller = Controller(
        engine=engine,
        store=store,
        launcher=Launcher(handover, epoch=loaded.epoch),
        peers=service,
        capacity=handover.capacity,
        desired=loaded.desired,
        replies=loaded.replies,
        epoch=loaded.epoch,
        request_timeout_s=handover.request_timeout_s,
    )
    service.attach(controller)
    await engine.start(inherited)
    server = await loop.create_unix_server(
        acceptor(service, instance=handover.instance, key_for=service.key_for), sock=listener
    )
    await stopped.wait()
    server.close()
    await controller.aclose()
    if exporter is not None:
        await exporter.aclose()


async def _start_exporter(folder: Path, listener: socket.socket | None) -> Exporter | None:
    """Serve the node's metrics from here: the controller is on no request's way."""
    book = Book.open(folder, "controller")
    if book is None:
        return None
    book.counter(families.PROCESS_STARTS, "controller").inc()
    LoopLag(book.gauge(families.LOOP_LAG, "controller"))
    exporter = Exporter(folder, listener)
    await exporter.start()
    return exporter


def main() -> None:
    lifeline = Lifeline.from_argv()
    handover = lifeline.read(ControllerHandover)
    inherited, *metrics = (socket.socket(fileno=int(argument)) for argument in sys.argv[3:])
    listener = socket.socket(fileno=lifeline.extra_fd)
    run_process(serve(handover, listener, inherited, metrics[0] if metrics else None))


if __name__ == "__main__":
    main()
