"""Where the controller is, for a process that cannot ask its cluster: a backend's environment need not have Ray.

The process that hosts it asks, and answers at a Unix socket on the same node: one connection, one address.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

TIMEOUT_S = 10.0
PAUSE_S = 0.1
ENDED = b"ended"

_relay = ""


def set_relay(path: str) -> None:
    """Say that this process asks its host, at that socket; empty: it asks by itself."""
    global _relay
    _relay = path


def relay_here() -> str:
    """The socket of this process's host; empty where it asks by itself."""
    return _relay


def answer(listener: socket.socket, locate: Callable[[], str | None]) -> None:
    """Answer for ever; for a thread of its own.

    Args:
        locate: returns the controller's address, None when the instance has ended; raises ConnectionError when there is
            none just now.
    """
    while True:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):  # no address just now, or who asked has gone
            found = locate()
            connection.sendall(ENDED if found is None else found.encode())


def locator_by_relay(path: str) -> Callable[[], Awaitable[str | None]]:
    """Asks the host at ``path`` until it knows; None once the instance has ended."""

    async def locate() -> str | None:
        while True:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    said = await asyncio.wait_for(reader.read(), TIMEOUT_S)
                finally:
                    writer.close()
                if said:
                    return _understand(said)
            await asyncio.sleep(PAUSE_S)

    return locate


def ask_relay(path: str) -> str:
    """The controller's address, for a thread that has no loop.

    Raises:
        OSError: it is nowhere just now, or for good.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(path)
        found = _understand(b"".join(iter(lambda: connection.recv(4096), b"")))
    if not found:
        raise ConnectionError("the controller is nowhere just now")
    return found


def _understand(said: bytes) -> str | None:
    return None if said == ENDED else said.decode()
