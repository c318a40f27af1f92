"""Sends requests over several keep-alive connections and times each. Used by ``run``; knows HTTP, not digits."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from queue import SimpleQueue
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pointsman.exceptions import ServeException

TIMEOUT_S = 30.0


class Answer(NamedTuple):
    """The JSON of one answer, and the seconds from sending the request to the end of the answer."""

    value: Any
    seconds: float


def post_all(targets: Sequence[tuple[str, bytes]], *, connections: int) -> Generator[Answer, None, None]:
    """Post a body to each URL; yields the answers in the order of the targets.

    Args:
        targets: URLs on one server, each with the body for it.
        connections: number of connections that are kept open.

    Raises:
        ServeException: a status is not 200, or there is no answer.
    """
    server = urlsplit(targets[0][0]).netloc
    pooled = [HTTPConnection(server, timeout=TIMEOUT_S) for _ in range(connections)]
    idle: SimpleQueue[HTTPConnection] = SimpleQueue()
    for connection in pooled:
        idle.put(connection)

    def post(target: tuple[str, bytes]) -> Answer:
        url, body = target
        connection = idle.get()
        try:
            return _post(connection, urlsplit(url)._replace(scheme="", netloc="").geturl(), body)
        finally:
            idle.put(connection)

    threads = ThreadPoolExecutor(connections, thread_name_prefix="demo-http")
    try:
        yield from threads.map(post, targets)
    finally:
        threads.shutdown(cancel_futures=True)
        for connection in pooled:
            connection.close()


def _post(connection: HTTPConnection, path: str, body: bytes) -> Answer:
    began = time.perf_counter()
    try:
        connection.request("POST", path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        data = response.read()
    except (HTTPException, OSError) as error:
        raise ServeException(f"no answer from {path}: {error or type(error).__name__}") from error
    seconds = time.perf_counter() - began
    if response.status != 200:
        raise ServeException(f"{path} answered {response.status}: {data[:200].decode(errors='replace')}")
    return Answer(json.loads(data), seconds)
