"""TLS for links of ours between machines, where the cluster has it: with Ray's own certificates, which variables name.

Both ends show a certificate of the cluster's authority, as Ray's own links do, before the first byte of a hello. Asked
at each dial, so that certificates which are renewed are used from then on. Unix sockets do without.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping

SWITCH = "RAY_USE_TLS"
FILES = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")


def dialer_context(environ: Mapping[str, str] = os.environ) -> ssl.SSLContext | None:
    """What a dialer shows, and expects of the other end; None where the cluster has no TLS.

    Raises:
        OSError: a certificate is not named, or cannot be used.
    """
    return _context(ssl.PROTOCOL_TLS_CLIENT, environ)


def acceptor_context(environ: Mapping[str, str] = os.environ) -> ssl.SSLContext | None:
    """The same for who is dialed."""
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
