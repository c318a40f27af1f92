"""The console's process.

argv: lifeline fd, HTTP listener fd
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket

from pointsman.calling.session import Credentials
from pointsman.console.app import make_app
from pointsman.console.behalf import UserClient
from pointsman.console.counts import counts_for
from pointsman.console.sampled import calls_of
from pointsman.console.sampler import Sampler
from pointsman.console.server import ConsoleServer
from pointsman.engine.base import Address
from pointsman.engine.listening import listen
from pointsman.engine.process import Lifeline, run_process
from pointsman.wire.auth import ROLE_CONSOLE
from pointsman.wire.handover import ConsoleHandover

NICENESS = 19


async def serve(credentials: Credentials, listener: socket.socket, address: Address | None = None) -> None:
    """Serve the console until a signal comes."""
    sampler = Sampler(counts_for(credentials), UserClient(credentials, address, "").status)
    sampling = asyncio.get_running_loop().create_task(sampler.run())
    server = ConsoleServer(make_app(credentials, address, more=calls_of(sampler)), listener)

    def stop() -> None:
        sampler.news.end()
        server.stop()

    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop)
    try:
        await server.serve()
    finally:
        sampling.cancel()
        await asyncio.gather(sampling, return_exceptions=True)


def run(handover: ConsoleHandover, listener: socket.socket | None = None) -> None:
    """Run a console until it is stopped. Blocks the main thread.

    Args:
        listener: listening socket inherited from the process that holds the port; None binds it here.

    Raises:
        OSError: the port cannot be bound.
    """
    os.nice(NICENESS)  # requests go first
    listener = listener or listen(handover.settings.host, handover.settings.port, shared=True)
    credentials = Credentials(handover.instance, handover.control_path, ROLE_CONSOLE, "", handover.control_key, 60.0)
    run_process(serve(credentials, listener), process="console", log_format=handover.log_format)


def main() -> None:
    lifeline = Lifeline.from_argv()
    handover = lifeline.read(ConsoleHandover)
    run(handover, socket.socket(fileno=lifeline.extra_fd))


if __name__ == "__main__":
    main()
