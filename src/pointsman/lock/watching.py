"""Files of keys, tokens and certificates, read again when they have changed. Of wrong ones the log alone knows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from pointsman.lock.tls import RenewedContext, TLSSpec, load_context

log = logging.getLogger(__name__)

PERIOD_S = 1.0
"""Keys and tokens are promised within 2 s, and certificates within 5 s."""


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


async def watch(files: Sequence[Watched]) -> None:
    """Look at files, for ever."""
    while files:
        await asyncio.sleep(PERIOD_S)
        for file in files:
            await file.look()


def watched_certificates(tls: TLSSpec, context: RenewedContext) -> Watched:
    """The certificates of a server, the first of which are loaded here.

    Raises:
        ValueError: they cannot be used.
    """
    signatures = tls.signatures
    context.current = load_context(tls)

    def use(new: Any) -> None:
        context.current = new

    return Watched("certificates", lambda: tls.signatures, lambda: load_context(tls), use, signatures)
