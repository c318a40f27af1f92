"""Serves a node's metrics over HTTP at ``GET /metrics``, for Prometheus and for people.

Any process of a node can host it, given the folder of the metrics files and a listening socket. It has no state but
those files, so another process can take over. Collecting runs on a thread; the event loop only sends the bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pointsman.telemetry.collector import Collector, Metric
from pointsman.telemetry.reports import OPENMETRICS_TYPE, TEXT_TYPE, render

log = logging.getLogger(__name__)

PATHS = (b"/metrics", b"/")
MAX_HEAD = 16 * 1024
HEAD_TIMEOUT_S = 10.0
WRITE_TIMEOUT_S = 30.0
MAX_CONNECTIONS = 32
#: Metrics files of exited processes are merged at each scrape, and at least this often.
MERGE_EVERY_S = 30.0


class Exporter:
    """Serves the metrics of a folder over HTTP, from :meth:`start` on.

    Args:
        folder: of the metrics files.
        listener: a listening socket; None to collect only.
    """

    def __init__(self, folder: Path, listener: socket.socket | None) -> None:
        self._collector = Collector(folder, clock=time.monotonic)
        self._listener = listener
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pointsman-metrics")
        self._server: asyncio.Server | None = None
        self._merging: asyncio.Task[None] | None = None
        self._connections = 0

    async def start(self) -> None:
        """Start to serve."""
        self._merging = asyncio.get_running_loop().create_task(self._merge_regularly())
        if self._listener is not None:
            self._server = await asyncio.start_server(self._answer, sock=self._listener, limit=MAX_HEAD)

    async def aclose(self) -> None:
        """Stop serving. Other processes that share the socket keep it open."""
        if self._server is not None:
            self._server.close()
        if self._merging is not None:
            self._merging.cancel()
            await asyncio.gather(self._merging, return_exceptions=True)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._collector.close)
        self._thread.shutdown()

    async def collect(self) -> dict[str, Metric]:
        """The current metrics of the node."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._collector.collect)

    def _page(self, openmetrics: bool) -> bytes:
        return render(self._collector.collect(), openmetrics=openmetrics)

    async def _merge_regularly(self) -> None:
        while True:
            await asyncio.sleep(MERGE_EVERY_S)
            try:
                await self.collect()
            except OSError as error:
                log.warning("metrics of ended processes cannot be merged now: %s", error)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections > MAX_CONNECTIONS:
                return
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_TIMEOUT_S)
            writer.write(await self._response(head))
            await asyncio.wait_for(writer.drain(), WRITE_TIMEOUT_S)
        except (OSError, EOFError, asyncio.TimeoutError, asyncio.LimitOverrunError):
            pass  # the client disconnected, is too slow or does not speak HTTP: its connection is closed
        finally:
            self._connections -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _response(self, head: bytes) -> bytes:
        request, *fields = head.split(b"\r\n")
        method, _, rest = request.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _message(b"405 Method Not Allowed", b"", "text/plain", b"allow: GET, HEAD\r\n")
        if path not in PATHS:
            return _message(b"404 Not Found", b"metrics are at /metrics\n", "text/plain")
        openmetrics = any(
            name.strip().lower() == b"accept" and b"application/openmetrics-text" in value.lower()
            for name, _, value in (field.partition(b":") for field in fields)
        )
        try:
            page = await asyncio.get_running_loop().run_in_executor(self._thread, self._page, openmetrics)
        except OSError as error:
            log.warning("metrics cannot be collected: %s", error)
            return _message(b"503 Service Unavailable", b"metrics cannot be collected now\n", "text/plain")
        message = _message(b"200 OK", page, OPENMETRICS_TYPE if openmetrics else TEXT_TYPE)
        return message if method == b"GET" else message[: -len(page)]


def _message(status: bytes, body: bytes, kind: str, more: bytes = b"") -> bytes:
    head = (
        b"HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\ncache-control: no-store\r\n"
        b"%sconnection: close\r\n\r\n"
    )
    return head % (status, kind.encode(), len(body), more) + body
