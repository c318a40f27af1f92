"""Finds the controller for a process whose environment does not have Ray, and which therefore cannot ask the cluster.

Its parent, an actor, asks the cluster and answers on a Unix socket of the node: one address per connection.
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
    """Set the socket of this process's parent actor; empty if this process asks the cluster itself."""
    global _relay
    _relay = path


def relay_here() -> str:
    """The socket of this process's parent actor; empty if this process asks the cluster itself."""
    return _relay


def answer(listener: socket.socket, locate: Callable[[], str | None]) -> None:
    """Answer connections for ever; run on a thread.

    Args:
        locate: returns the controller's address, or None if the instance has ended; raises ConnectionError if there is
            none at present.
    """
    while True:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):  # no address at present, or the process has disconnected
            found = locate()
            connection.sendall(ENDED if found is None else found.encode())


def locator_by_relay(path: str) -> Callable[[], Awaitable[str | None]]:
    """A function that asks at ``path`` until there is an address; it returns None once the instance has ended."""

    async def locate() -> str | None:
        while True:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    data = await asyncio.wait_for(reader.read(), TIMEOUT_S)
                finally:
                    writer.close()
                if data:
                    return _decode(data)
            await asyncio.sleep(PAUSE_S)

    return locate


def ask_relay(path: str) -> str:
    """The controller's address, for a thread that has no loop.

    Raises:
        OSError: there is none at present, or the instance has ended.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.connect(path)
        found = _decode(b"".join(iter(lambda: connection.recv(4096), b"")))
    if not found:
        raise ConnectionError("the controller is nowhere just now")
    return found


def _decode(data: bytes) -> str | None:
    return None if data == ENDED else data.decode()
