"""Addresses of our listeners: the path of a Unix socket, or ``tcp:host:port`` for other nodes; and TLS contexts.

A process on the listener's node uses the path, others use the TCP address. A process learns its own node once, at its
start; the local engine has one node, with an empty name.

TLS between nodes uses the certificates that the cluster's operator has given to Ray (decision 0031). They are read at
each dial, so renewed certificates are used from then on. Unix sockets use no TLS.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from typing import NamedTuple

TCP_PREFIX = "tcp:"

_here = ""


def set_node(node: str) -> None:
    """Set the node that this process runs on. Called once, at its start."""
    global _here
    _here = node


def node_here() -> str:
    """The node that this process runs on; empty with the local engine."""
    return _here


def nearest(node: str, path: str, tcp: str) -> str:
    """The address by which this process reaches a listener on ``node``."""
    return path if node == _here or not tcp else tcp


class HostPort(NamedTuple):
    host: str
    port: int


def tcp_address(host: str, port: int) -> str:
    return f"{TCP_PREFIX}{host}:{port}"


def parse_tcp(address: str) -> HostPort | None:
    """Host and port of a TCP address; None for the path of a Unix socket."""
    if not address.startswith(TCP_PREFIX):
        return None
    host, _, port = address.removeprefix(TCP_PREFIX).rpartition(":")
    return HostPort(host, int(port))


SWITCH = "RAY_USE_TLS"
FILES = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")


def dialer_context(environ: Mapping[str, str] = os.environ) -> ssl.SSLContext | None:
    """TLS context of the connecting end; None if the cluster does not use TLS.

    Raises:
        OSError: a certificate is not configured, or cannot be used.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, environ)


def acceptor_context(environ: Mapping[str, str] = os.environ) -> ssl.SSLContext | None:
    """TLS context of the listening end; None if the cluster does not use TLS. Raises as :func:`dialer_context`."""
    return _context(ssl.PROTOCOL_TLS_SERVER, environ)


def _context(kind: ssl._SSLMethod, environ: Mapping[str, str]) -> ssl.SSLContext | None:
    if environ.get(SWITCH, "0").lower() not in ("1", "true"):  # as Ray reads it
        return None
    for name in FILES:
        if not environ.get(name):
            raise OSError(f"{SWITCH}={environ[SWITCH]} needs {name} to name a file, and it is not set")
    certificate, key, authority = (environ[name] for name in FILES)
    context = ssl.SSLContext(kind)
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authority)
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(f"{name}={environ[name]}" for name in FILES)
        raise OSError(f"the certificates of {SWITCH} cannot be used ({error}): {files}") from None
    context.verify_mode = ssl.CERT_REQUIRED
    return context
