"""Where a socket of ours listens, as text: a path for a Unix socket, ``tcp:host:port`` for one that other nodes reach.

A process on the same node as the listener takes the path, any other the TCP address. Which node this is, a process
learns once, at its birth; with the local engine there is one node, and its name is empty.
"""

from __future__ import annotations

from typing import NamedTuple

TCP_PREFIX = "tcp:"

_here = ""


def set_node(node: str) -> None:
    """Say on which node this process runs."""
    global _here
    _here = node


def node_here() -> str:
    """The node of this process; empty where there is only one."""
    return _here


def nearest(node: str, path: str, tcp: str) -> str:
    """The address by which this process reaches a listener of ``node``."""
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
