"""An ingress process: the control link that brings routing tables, a router, and the HTTP server."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import socket
import sys
import time
from functools import partial

from pointsman.engine.comparer import Comparer
from pointsman.engine.instances import last_table, locator, metrics_folder, pairs_folder, tallies_folder
from pointsman.engine.listening import listen
from pointsman.engine.process import HANDED_OVER, ORPHANED_DRAIN_S, Lifeline, run_process
from pointsman.ingress.app import IngressApp
from pointsman.ingress.asgi import ASGIApp
from pointsman.ingress.door import Door
from pointsman.ingress.ending import DRAIN_S, ServerEnd
from pointsman.ingress.exchange import HTTPMetrics
from pointsman.ingress.firsttable import FirstTable
from pointsman.ingress.renewal import watched_files
from pointsman.ingress.server import HTTPServer
from pointsman.ingress.service import Entrance
from pointsman.ingress.shares import shares_of
from pointsman.lock.tls import RenewedContext
from pointsman.lock.watching import Watched, watch
from pointsman.routing.metrics import RouterMetrics
from pointsman.routing.reports import Reports
from pointsman.routing.router import Router
from pointsman.telemetry import families
from pointsman.telemetry.tallies import Tallies, TallyFile
from pointsman.telemetry.writer import LoopLag, MetricsWriter
from pointsman.wire.auth import ROLE_INGRESS
from pointsman.wire.commands import Ending
from pointsman.wire.control import ControlLink
from pointsman.wire.frames import Frame, Kind
from pointsman.wire.handover import HTTPSettings, IngressHandover
from pointsman.wire.messages import unpack

log = logging.getLogger("pointsman.ingress")


def with_middlewares(app: ASGIApp, settings: HTTPSettings) -> ASGIApp:
    """Wrap the app in the operator's middlewares, in list order: the last one is outermost."""
    if settings.middlewares:
        sys.path[:] = [*sys.path, *(entry for entry in settings.origin.sys_path if entry not in sys.path)]
        for cls, args, kwargs in pickle.loads(settings.middlewares):
            app = cls(app, *args, **kwargs)
    return app


def lock_of(handover: IngressHandover, app: IngressApp) -> tuple[Entrance | None, RenewedContext | None, list[Watched]]:
    """What asks requests, the certificates, and the files with keys and certificates; nothing where nothing is asked.

    Raises:
        ValueError: the certificates cannot be used.
    """
    lock = handover.http.lock
    if lock.is_open:
        return None, None, []
    folder = metrics_folder(handover.control_path).with_name("k")
    cells, own = shares_of(folder, handover.identity, handover.processes)
    door = Door(lock, cells=cells, own=own, clock=time.monotonic)
    context = RenewedContext() if lock.tls is not None else None
    return Entrance(door, app), context, watched_files(lock, door, context)


async def serve(handover: IngressHandover, listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    writer = MetricsWriter.open(metrics_folder(handover.control_path), "ingress")
    if writer is not None:
        writer.counter(families.PROCESS_STARTS, "ingress").inc()
        LoopLag(writer.gauge(families.LOOP_LAG, "ingress"))
    reports = Reports()
    router = Router(
        instance=handover.instance,
        metrics=RouterMetrics(writer) if writer is not None else None,
        pairs=Comparer(pairs_folder(handover.control_path), handover.log_format),
        tallies=Tallies(TallyFile.open(tallies_folder(handover.control_path), "ingress")),
        reporter=reports.reporter(),
    )
    app = IngressApp(router, handover.http, HTTPMetrics(writer) if writer is not None else None)
    direct = None if handover.http.middlewares else app
    entrance, context, files = lock_of(handover, app)
    server = HTTPServer(
        with_middlewares(app, handover.http), listener, drain_s=DRAIN_S, settings=handover.http, direct=direct,
        entrance=entrance, context=context,
    )  # fmt: skip

    end = ServerEnd(app, server, handover.http.drain_delay_s)
    loop.add_signal_handler(signal.SIGTERM, partial(end.on_signal, hurried=False))
    loop.add_signal_handler(signal.SIGINT, partial(end.on_signal, hurried=True))
    loop.add_signal_handler(HANDED_OVER, end.on_handed_over)
    first = FirstTable(app, last_table(handover.control_path))

    def on_frame(frame: Frame) -> None:
        if frame.kind == Kind.STOP:
            ending = unpack(frame.head, Ending) if frame.head else Ending(DRAIN_S)
            end.on_order(ending.drain_s, ending.delay_s)
        elif frame.kind == Kind.CONFIRM:
            first.on_counted()

    link = ControlLink(
        path=handover.control_path,
        locate=locator(handover.control_path),
        instance=handover.instance,
        role=ROLE_INGRESS,
        identity=handover.identity,
        key=handover.control_key,
        patient=True,
        on_table=first.on_table,
        on_frame=on_frame,
        on_gone=lambda: end.on_order(ORPHANED_DRAIN_S),
    )
    reports.link = link
    link.subscribe(ingress=True, pid=os.getpid())
    watching = loop.create_task(watch(files))
    linking = loop.create_task(link.start())  # not awaited: the controller may be down, and a stored table will do
    try:
        # Without a table every route would get a 404, so connections wait in the backlog until there is one.
        await first.wait()
        # A server that is stopped before would accept those that can wait for the next instance.
        if not handover.holds_connections or await first.comes_up(end.announced):
            await server.serve()
        if linking.done():
            linking.result()
    finally:
        linking.cancel()
        watching.cancel()
        await asyncio.gather(linking, watching, return_exceptions=True)
        await link.aclose()
        await router.aclose()


def run(handover: IngressHandover, listener: socket.socket | None = None) -> None:
    """Run an ingress until it is stopped. Blocks the main thread.

    Args:
        listener: listening socket inherited from the process that holds the port. None binds the port here, shared
            with other nodes on this machine.

    Raises:
        OSError: the port cannot be bound.
    """
    listener = listener or listen(handover.http.host, handover.http.port, shared=True)
    run_process(serve(handover, listener), process="ingress", log_format=handover.log_format)


def main() -> None:
    lifeline = Lifeline.from_argv()
    handover = lifeline.read(IngressHandover)
    run(handover, socket.socket(fileno=lifeline.extra_fd))


if __name__ == "__main__":
    main()
