"""Creates the listening TCP sockets for HTTP and metrics. A port in use raises ``OSError`` that names host and port."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket

from pointsman.engine.portholder import holder_of
from pointsman.wire.handover import ConsoleSettings, MetricsPort
from pointsman.wire.stream import BACKLOG

log = logging.getLogger(__name__)


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket.

    Args:
        shared: set SO_REUSEPORT, so that other processes that set it too can listen on the port.

    Raises:
        OSError: the port cannot be bound, or the host not resolved; names both.
    """
    listener = bind(host, port, shared=shared)
    listener.listen(BACKLOG)
    return listener


def listen_for_metrics(wanted: MetricsPort) -> socket.socket:
    """As :func:`listen`, on another port if the wanted one is in use and only a default."""
    return _listen_for(wanted, "metrics are")


def listen_for_console(wanted: ConsoleSettings) -> socket.socket:
    """As :func:`listen_for_metrics`, for the console."""
    return _listen_for(wanted, "the console is")


def _listen_for(wanted: MetricsPort | ConsoleSettings, what: str) -> socket.socket:
    try:
        return listen(wanted.host, wanted.port)
    except OSError as error:
        if wanted.strict or error.errno != errno.EADDRINUSE:
            raise
        listener = listen(wanted.host, 0)
        log.warning("port %d is in use, so %s at port %d", wanted.port, what, listener.getsockname()[1])
        return listener


def url_of(listener: socket.socket, node_address: str = "127.0.0.1") -> str:
    """The base URL of a listening socket; with this node's address if it listens on all interfaces."""
    host, port = listener.getsockname()[:2]
    host = node_address if ipaddress.ip_address(host).is_unspecified else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """As :func:`listen`, without listening: the port is reserved, and connections are refused."""
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG)
    except socket.gaierror as error:
        raise socket.gaierror(error.errno, f"cannot listen on host {host!r}, port {port}: {error.strerror}") from None
    family, kind, protocol, _, address = infos[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        text = f"cannot listen on host {host!r}, port {port}: {os.strerror(error.errno or 0)}"
        holder = holder_of(port) if error.errno == errno.EADDRINUSE else ""
        text += f", by {holder}" if holder else ""
        raise OSError(error.errno, text) from None
    return listener
