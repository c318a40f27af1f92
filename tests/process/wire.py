"""Plain HTTP over sockets: quick, several requests under way on one connection, and to a server of one's choice."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

import psutil

import pointsman as serve
from tests.conftest import WAIT_S


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str


class Connection:
    """A connection that is kept open."""

    def __init__(self, client: serve.Client) -> None:
        assert client.http_address is not None
        address = urlsplit(client.http_address)
        self._host = address.netloc
        self._socket = socket.create_connection((address.hostname, address.port), timeout=WAIT_S)
        self._incoming = self._socket.makefile("rb")
        self.port: int = self._socket.getsockname()[1]

    def ask(self, path: str, **headers: str) -> Answer:
        """One request with its headers, names written with ``_``."""
        return self.ask_all([self.request(path, **headers)])[0]

    def request(self, path: str, **headers: str) -> bytes:
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in {"host": self._host, **headers}.items()]
        return f"GET {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode()

    def ask_all(self, requests: Sequence[bytes]) -> list[Answer]:
        """Send requests at once, few enough for the buffers, and read their answers."""
        self._socket.sendall(b"".join(requests))
        return [self._read() for _ in requests]

    def close(self) -> None:
        self._incoming.close()
        self._socket.close()

    def _read(self) -> Answer:
        status = int(self._incoming.readline().split(b" ", 2)[1])
        headers = {}
        while line := self._incoming.readline().decode("latin-1").rstrip("\r\n"):
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return Answer(status, headers, self._incoming.read(int(headers["content-length"])).decode())


def connections_to_each(client: serve.Client, count: int = 1) -> list[list[Connection]]:
    """So many connections to each HTTP server of an instance. The servers share one port, and who takes a connection is
    chance; so all but one are held still while that one's are opened."""
    servers = [psutil.Process(ingress["pid"]) for ingress in client.status()["http"]["ingresses"]]
    chosen = []
    for server in servers:
        others = [other for other in servers if other != server]
        try:
            for other in others:
                other.suspend()
            own = [Connection(client) for _ in range(count)]
            for connection in own:
                assert connection.ask("/-/healthz").status == 200  # now the server has taken it
        finally:
            for other in others:
                other.resume()
        chosen.append(own)
    return chosen
