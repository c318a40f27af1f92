"""The console's process.

argv: lifeline fd, HTTP listener fd
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable

from pointsman.calling.session import Credentials
from pointsman.console.app import Console
from pointsman.console.behalf import UserClient
from pointsman.console.counts import counts_for
from pointsman.console.sampled import calls_of
from pointsman.console.sampler import Sampler
from pointsman.console.server import ConsoleServer
from pointsman.engine.process import CONSOLE_NICENESS, Lifeline, run_process
from pointsman.lock.tls import RenewedContext
from pointsman.lock.watching import watch, watched_certificates
from pointsman.wire.auth import ROLE_CONSOLE
from pointsman.wire.handover import ConsoleHandover


def stop_on_signals(stop: Callable[[], None]) -> None:
    """Call ``stop`` when SIGTERM or SIGINT comes."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop)


async def serve(
    handover: ConsoleHandover, listener: socket.socket, on_stop: Callable[[Callable[[], None]], None] = stop_on_signals
) -> None:
    """Serve the console until it is stopped. Its threads give way to all others: requests go first.

    Args:
        on_stop: called with what stops it.

    Raises:
        ValueError: the certificates cannot be used.
    """
    os.nice(CONSOLE_NICENESS)
    settings = handover.settings
    credentials = Credentials(handover.instance, handover.control_path, ROLE_CONSOLE, "", handover.control_key, 60.0)
    context = RenewedContext() if settings.tls is not None else None
    files = [watched_certificates(settings.tls, context)] if settings.tls is not None and context is not None else []
    sampler = Sampler(counts_for(credentials), UserClient(credentials, ""))
    app = Console(credentials, hosts=settings.names, read_only=settings.read_only, more=calls_of(sampler))
    server = ConsoleServer(app, listener, context)

    def stop() -> None:
        sampler.news.end()
        server.stop()

    on_stop(stop)
    beside = [asyncio.ensure_future(sampler.run()), asyncio.ensure_future(watch(files))]
    try:
        await server.serve()
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)


def main() -> None:
    lifeline = Lifeline.from_argv()
    handover = lifeline.read(ConsoleHandover)
    listener = socket.socket(fileno=lifeline.extra_fd)
    run_process(serve(handover, listener), process="console", log_format=handover.log_format)


if __name__ == "__main__":
    main()
