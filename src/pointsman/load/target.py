"""What a URL leads to, and whether that is this machine."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

PORTS = {"http": 80, "https": 443}
PROBE_S = 1.0


class Place(NamedTuple):
    """An address to connect to."""

    family: int
    address: tuple[Any, ...]


class Target(NamedTuple):
    """What is asked.

    Attributes:
        host: of the header ``host``.
        path: with its query.
        name: to check a certificate against.
    """

    secure: bool
    host: str
    name: str
    path: str
    places: tuple[Place, ...]


def read_target(url: str) -> Target:
    """Read a URL and look its host up.

    Raises:
        ValueError: it is no URL of http or https, or has user and password.
        OSError: the host is not known.
    """
    try:
        parts = urlsplit(url)
        given = parts.port
    except ValueError as error:  # a port that is none, or brackets that do not match
        raise ValueError(f"{url!r} is no URL: {error}") from None
    if parts.scheme not in PORTS or not parts.hostname or not url.isprintable():
        raise ValueError(f"{url!r} is no URL, such as http://127.0.0.1:8000/rank")
    if "@" in parts.netloc:
        raise ValueError("the URL has a user or password in it; give --header 'authorization: ...' instead")
    if given == 0:
        raise ValueError(f"{url!r} is no URL: nobody listens at port 0")
    try:
        found = socket.getaddrinfo(parts.hostname, given or PORTS[parts.scheme], type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OSError(f"host {parts.hostname!r} is not known: {error.strerror}") from None
    except UnicodeError:
        raise ValueError(f"{parts.hostname!r} cannot be the name of a host") from None
    places = tuple(dict.fromkeys(Place(one[0], one[4]) for one in found))
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=-._~")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=?-._~")
    return Target(parts.scheme == "https", parts.netloc, parts.hostname, path + (f"?{query}" if query else ""), places)


def is_here(place: Place) -> bool:
    """Whether an address is one of this machine: loopback, unspecified, or one that is reached from itself.

    Nothing is sent for that. To bind a socket would say too much: to a group, a broadcast address and, on some
    routers, to any address at all a socket can be bound.
    """
    address = ipaddress.ip_address(str(place.address[0]).partition("%")[0])
    if address.is_loopback or address.is_unspecified:
        return True
    try:
        with socket.socket(place.family, socket.SOCK_DGRAM) as probe:
            probe.connect(place.address)
            found: str = probe.getsockname()[0]
    except OSError:
        return False
    return ipaddress.ip_address(found.partition("%")[0]) == address


def choose(target: Target) -> Place:
    """The first address that takes a connection, as ``localhost`` may be two; else the first."""
    if len(target.places) > 1:
        for place in target.places:
            with socket.socket(place.family, socket.SOCK_STREAM) as probe:
                probe.settimeout(PROBE_S)
                try:
                    probe.connect(place.address)
                except OSError:
                    continue
                return place
    return target.places[0]


def tls_context(cacert: str | None, *, insecure: bool) -> ssl.SSLContext:
    """What certificates are checked by.

    Raises:
        OSError: the file cannot be read, or has no certificate.
    """
    context = ssl.create_default_context(cafile=cacert)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
