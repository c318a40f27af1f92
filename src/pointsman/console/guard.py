"""Who may ask at all, before anything else is looked at, and what every answer carries. Pure.

A page of another site that a user has open can send requests to this machine. Browsers say so: by ``Origin`` and
``Sec-Fetch-Site``, and by the ``Host`` that the page used, which a name that was pointed at this machine gives away.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from pointsman.lock.hosts import Hosts, check_hosts

MAX_HEAD = 16 * 1024
"""Bytes of a request's head."""
ONCE = ("host", "origin", "sec-fetch-site", "authorization", "if-match", "idempotency-key", "content-type")
"""Headers that decide who may what."""
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

CSP = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
ON_ANSWERS: tuple[tuple[bytes, bytes], ...] = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", CSP.encode()),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
"""Of every answer, also of a refusal."""


class Guard:
    """Refuses requests that another site may have caused.

    Args:
        hosts: names of this server beside those of the loopback, without ports.
    """

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        self._hosts = Hosts((*LOOPBACK, *check_hosts([*hosts, "localhost"])))

    def refusal(self, headers: Mapping[str, str], server: str = "", *, is_page: bool = False) -> str:
        """Why a request is refused, as one sentence; empty if it is not.

        Args:
            headers: names in lower case.
            server: the address at which it has arrived, by which the server may be called as well.
            is_page: whether it is for a file of the page, to which a link of another site may lead.
        """
        twice = repeated(headers)
        if twice:
            return f"header {twice!r} is there twice, and could be read in two ways"
        host = headers.get("host", "")
        name = host.encode("latin-1", "replace")
        if not self._hosts.allows(name) and not _is_address(host, server):
            instead = "call it by localhost or its address, or give that name to --console-allowed-host"
            return f"{host[:100]!r} is no name of this server; {instead}"
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}"):
            return f"pages of {origin[:100]!r} may not use this server"
        site = headers.get("sec-fetch-site", "none")
        is_link = (
            is_page and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        )
        if site not in ("none", "same-origin") and not is_link:
            return "pages of another site may not use this server"
        return ""


def repeated(headers: Mapping[str, str]) -> str:
    """The name of a header that decides who may what, and is there twice; empty if there is none."""
    names = list(headers)  # of a multidict, each as often as it is there
    return next((name for name in ONCE if names.count(name) > 1), "")


def _is_address(host: str, server: str) -> bool:
    """Whether a ``Host`` is the very address at which the request has arrived: no name leads there by a trick."""
    name = host.rpartition(":")[0] if host.count(":") == 1 or "]:" in host else host
    try:
        return bool(server) and ipaddress.ip_address(name.strip("[]")) == ipaddress.ip_address(server)
    except ValueError:
        return False
