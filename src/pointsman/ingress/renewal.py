"""The files that an HTTP server is made of: keys and certificates, which are read again when they have changed."""

from __future__ import annotations

import logging

from pointsman.ingress.door import Door
from pointsman.lock.keyfile import read_keys, signature_of
from pointsman.lock.tls import RenewedContext
from pointsman.lock.watching import Watched, watched_certificates
from pointsman.wire.handover import LockSettings

log = logging.getLogger("pointsman.ingress")


def watched_files(settings: LockSettings, door: Door, context: RenewedContext | None) -> list[Watched]:
    """The files that this server is made of, of which those with keys are read here.

    Args:
        settings: name the files.
        door: uses the keys.
        context: uses the certificates; None without.

    Raises:
        ValueError: the certificates cannot be used.
    """
    found = []
    if settings.key_file:
        found.append(_keys(settings.key_file, door))
    if settings.tls is not None and context is not None:
        found.append(watched_certificates(settings.tls, context))
    return found


def _keys(path: str, door: Door) -> Watched:
    signature = signature_of(path)
    try:
        door.use_keys(read_keys(path))
    except ValueError as error:
        log.error("no API key opens this HTTP server until its file is right: %s", error)
    return Watched("API keys", lambda: signature_of(path), lambda: read_keys(path), door.use_keys, signature)
