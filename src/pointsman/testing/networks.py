"""Addresses in memory and servers that listen there, in place of Unix sockets: see :mod:`pointsman.testing.pipes`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from pointsman.testing.pipes import Pipe

P = TypeVar("P", bound=asyncio.BaseProtocol)


class MemoryServer:
    """A listening server. Made by :meth:`MemoryNetwork.listen`, and so by ``loop.create_unix_server`` in virtual time.

    Attributes:
        address: where it listens.
        factory: makes the protocol of each accepted connection.
        pipes: all connections so far.
    """

    def __init__(self, network: MemoryNetwork, address: str, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        self._network = network
        self.address = address
        self.factory = factory
        self.pipes: list[Pipe] = []

    def close(self) -> None:
        """Accept no more connections; open ones stay."""
        self._network.forget(self)

    async def wait_closed(self) -> None:
        """Returns at once."""


class MemoryNetwork:
    """Addresses and the servers that listen there.

    Attributes:
        on_connect: called with the address and each new pipe before any byte is sent; the place to set faults.
    """

    def __init__(self) -> None:
        self._servers: dict[str, MemoryServer] = {}
        self.on_connect: Callable[[str, Pipe], None] | None = None

    def listen(self, address: str, factory: Callable[[], asyncio.BaseProtocol]) -> MemoryServer:
        """Listen at ``address``; ``factory`` creates the protocol of each accepted connection.

        Args:
            address: where.
            factory: makes the protocols.

        Returns:
            The server.

        Raises:
            OSError: another server listens there.
        """
        if address in self._servers:
            raise OSError(f"address {address!r} is in use")
        server = self._servers[address] = MemoryServer(self, address, factory)
        return server

    def forget(self, server: MemoryServer) -> None:
        """Let nobody connect to a server any more.

        Args:
            server: one that listens.
        """
        if self._servers.get(server.address) is server:
            del self._servers[server.address]

    async def connect(self, address: str, factory: Callable[[], P]) -> tuple[asyncio.Transport, P]:
        """Connect to the server at ``address``.

        Args:
            address: where a server listens.
            factory: makes the protocol of this end.

        Returns:
            The transport and the protocol.

        Raises:
            ConnectionRefusedError: no server listens there.
        """
        server = self._servers.get(address)
        if server is None:
            raise ConnectionRefusedError(f"nobody listens at {address!r}")
        protocol = factory()
        pipe = Pipe(protocol, server.factory())
        server.pipes.append(pipe)
        if self.on_connect is not None:
            self.on_connect(address, pipe)
        await asyncio.sleep(0)  # connection_made comes before this returns, as it does with a socket
        return pipe.first, protocol
