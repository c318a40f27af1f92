"""A controller process of the local engine: its store is a file, its engine the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from pathlib import Path

from pointsman.controller.connections import Connections
from pointsman.controller.run import serve
from pointsman.controller.store import Store, StoreError
from pointsman.controller.views import running
from pointsman.engine.base import EventSink
from pointsman.engine.local.engine import SupervisorLink
from pointsman.engine.local.folder import REFUSAL, InstanceFolder
from pointsman.engine.process import EXIT_REFUSED, Lifeline, run_process
from pointsman.wire.handover import ControllerHandover

log = logging.getLogger("pointsman.controller")


async def serve_here(
    handover: ControllerHandover, listener: socket.socket, inherited: socket.socket, metrics: socket.socket | None
) -> None:
    stopped = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stopped.set)
    links: list[SupervisorLink] = []

    def engine(events: EventSink, peers: Connections) -> SupervisorLink:
        links.append(SupervisorLink(events, inherited, ingresses_wanted=handover.settings.ingresses))
        return links[0]

    try:
        await serve(
            handover,
            store=Store(Path(handover.settings.state_dir or handover.folder) / "state.db"),
            engine=engine,
            listeners=[listener],
            stopped=stopped,
            metrics=metrics,
            default_max=max(2, int(handover.capacity.num_cpus or os.cpu_count() or 1)),
            ready=lambda controller: links[0].tell_what_runs(lambda: running(controller.desired, controller.observed)),
        )
    except StoreError as error:
        log.critical("%s", error)
        with contextlib.suppress(OSError):  # ``start()`` reads the reason there; the log has it in any case
            InstanceFolder(Path(handover.folder)).write(REFUSAL, str(error).encode())
        sys.exit(EXIT_REFUSED)


def main() -> None:
    lifeline = Lifeline.from_argv()
    handover = lifeline.read(ControllerHandover)
    inherited, *metrics = (socket.socket(fileno=int(argument)) for argument in sys.argv[3:])
    listener = socket.socket(fileno=lifeline.extra_fd)
    main = serve_here(handover, listener, inherited, metrics[0] if metrics else None)
    run_process(main, process="controller", log_format=handover.settings.log_format)


if __name__ == "__main__":
    main()
