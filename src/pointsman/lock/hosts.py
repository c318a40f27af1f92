"""By which names clients may call this server, and which proxies are believed about the client. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any

ANY = "*"
Client = tuple[str, int]
_HOST = re.compile(r"\*|(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_.])?|\[[0-9a-f:.]+\]")
_LABELS = re.compile(r"[a-z0-9_][a-z0-9_.-]*")
_MAX_REMEMBERED = 4096


def check_hosts(given: Any) -> tuple[str, ...]:
    """Check ``allowed_hosts``: names, ``*.name`` for all below one, or ``*`` for any; without ports.

    Raises:
        ValueError: no list, an empty one, or one with something else.
    """
    if not isinstance(given, (list, tuple)) or not all(isinstance(host, str) for host in given):
        raise ValueError("it must be a list of names of hosts")
    if not given:
        raise ValueError('it lets nobody in; ["*"] is for any host')
    hosts = []
    for host in given:
        name = host.lower()
        if ":" in name and not name.startswith("["):
            name = f"[{name}]" if name.count(":") > 1 else name  # an IPv6 address
        if not _HOST.fullmatch(name):
            raise ValueError(f"{host!r} is no name of a host; give it without scheme and port")
        hosts.append(name)
    return tuple(hosts)


def check_proxies(given: Any) -> tuple[str, ...]:
    """Check ``trusted_proxies``: addresses, networks as ``10.0.0.0/8``, or ``*`` for everybody.

    Raises:
        ValueError: no list, or one with something else.
    """
    if not isinstance(given, (list, tuple)) or not all(isinstance(proxy, str) for proxy in given):
        raise ValueError("it must be a list of addresses")
    for proxy in given:
        if proxy != ANY:
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                raise ValueError(f"{proxy!r} is no address and no network: {error}") from None
    return tuple(given)


class Hosts:
    """The names by which clients may call this server.

    Args:
        allowed: as :func:`check_hosts` returns them.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self._names = frozenset(name for name in allowed if not name.startswith("*."))
        self._suffixes = tuple(name[1:] for name in allowed if name.startswith("*."))

    def allows(self, host: bytes | None) -> bool:
        """Whether the value of a ``Host`` header names one of them; None is for a request without one."""
        if host is None:
            return False
        name = host.decode("latin-1").lower()
        if name.startswith("["):
            address, bracket, port = name.partition("]")
            name = f"{address}{bracket}"
        else:
            name, _, port = name.partition(":")
        port = port.removeprefix(":")
        if port and not port.isdecimal():
            return False
        if name.endswith(".") and not name.endswith(".."):
            name = name[:-1]  # the same host, in full
        if name in self._names:
            return True
        # Of what stands before a suffix user code makes URLs: `evil.example/.ours.example` would lead elsewhere.
        return bool(self._suffixes) and name.endswith(self._suffixes) and _LABELS.fullmatch(name) is not None


class Proxies:
    """The proxies that are believed about the client.

    Args:
        trusted: as :func:`check_proxies` returns them.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        self._any = ANY in trusted
        self._networks = [ipaddress.ip_network(proxy) for proxy in trusted if proxy != ANY]
        self._known: dict[str, bool] = {}

    def trusts(self, address: str) -> bool:
        """Whether an address is that of a trusted proxy."""
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= _MAX_REMEMBERED:
                self._known.clear()
            known = self._known[address] = self._any or self._is_in(address)
        return known

    def _is_in(self, address: str) -> bool:
        try:
            found: Any = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in network for network in self._networks)

    def client(self, peer: Client | None, forwarded_for: list[bytes]) -> Client | None:
        """Who has sent a request: the last address that no trusted proxy has.

        Args:
            peer: the other end of the connection.
            forwarded_for: the values of ``X-Forwarded-For``, in their order.
        """
        client = peer
        hops = b",".join(forwarded_for).decode("latin-1").split(",") if forwarded_for else []
        for hop in reversed(hops):
            if client is not None and not self.trusts(client[0]):
                break
            address = _address_in(hop.strip())
            if address is None:
                break  # a proxy said what is no address: what stands before that is nobody's word
            client = (address, 0)
        return client


def scheme_of(forwarded_proto: bytes) -> str | None:
    """The scheme that the last proxy saw; None where it says none that is known."""
    scheme = forwarded_proto.rpartition(b",")[2].strip().lower()
    return {b"http": "http", b"https": "https", b"ws": "http", b"wss": "https"}.get(scheme)


def _address_in(hop: str) -> str | None:
    """An address, perhaps with a port: ``1.2.3.4:5``, ``[::1]:5``."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        return str(ipaddress.ip_address(hop))
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host; not for a name whose address is somebody else's business."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
