"""Files of keys and certificates, read again when they have changed. Of wrong ones the log alone knows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from pointsman.ingress.door import Door
from pointsman.lock.keyfile import read_keys, signature_of
from pointsman.lock.tls import RenewedContext, load_context
from pointsman.wire.handover import LockSettings

log = logging.getLogger("pointsman.ingress")

PERIOD_S = 1.0
"""Keys are promised within 2 s, and certificates within 5 s."""


class Watched:
    """Something made of files.

    Args:
        what: it is, for the log.
        signature: of the files; another one once they have changed.
        load: reads them; raises ValueError if they are wrong. Runs on a thread.
        use: takes what was read.
        seen: signature of what is in use.
    """

    def __init__(
        self,
        what: str,
        signature: Callable[[], object],
        load: Callable[[], Any],
        use: Callable[[Any], object],
        seen: object,
    ) -> None:
        self._what = what
        self._signature = signature
        self._load = load
        self._use = use
        self._seen = seen

    async def look(self) -> None:
        """Read the files if they have changed since the last time. Warns once of files that are wrong."""
        now = await asyncio.to_thread(self._signature)  # before they are read: what comes later is seen the next time
        if now == self._seen:
            return
        self._seen = now
        try:
            read = await asyncio.to_thread(self._load)
        except ValueError as error:
            log.warning("the new %s cannot be used, and the old ones stay: %s", self._what, error)
            return
        self._use(read)
        log.info("the new %s are in use", self._what)


def watched_files(settings: LockSettings, door: Door, context: RenewedContext | None) -> list[Watched]:
    """The files that this server is made of, of which those with keys are read here.

    Raises:
        ValueError: the certificates cannot be used.
    """
    found = []
    path, tls = settings.key_file, settings.tls
    if path:
        signature = signature_of(path)
        try:
            door.use_keys(read_keys(path))
        except ValueError as error:
            log.error("no API key opens this HTTP server until its file is right: %s", error)
        found.append(Watched("API keys", lambda: signature_of(path), lambda: read_keys(path), door.use_keys, signature))
    if tls is not None and context is not None:
        renewed = context
        signatures = tls.signatures
        renewed.current = load_context(tls)

        def use(new: Any) -> None:
            renewed.current = new

        found.append(Watched("certificates", lambda: tls.signatures, lambda: load_context(tls), use, signatures))
    return found


async def watch(files: list[Watched]) -> None:
    """Look at files, for ever."""
    while files:
        await asyncio.sleep(PERIOD_S)
        for file in files:
            await file.look()
