"""A fresh process from its first line to the first answer of a no-op backend; prints when each step was done.

Usage: first_answer.py PORT. Times are ``time.monotonic()``, which all processes of a machine share.
"""

from __future__ import annotations

import time

began = time.monotonic()

import json  # noqa: E402
import socket  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

import pointsman as serve  # noqa: E402

imported = time.monotonic()


def noop(request: Any) -> str:
    return "ok"


def ask(port: int) -> bool:
    """One request over a plain socket: no HTTP library's import in the measured time."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET /noop HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"ok")


def main(port: int) -> None:
    marks = {"began": began, "imported": imported}
    client = serve.start(http_options={"port": port})
    marks["started"] = time.monotonic()
    client.create_backend("noop", noop)
    marks["backend"] = time.monotonic()
    client.create_endpoint("noop", backend="noop", route="/noop")
    marks["endpoint"] = time.monotonic()
    while not ask(port):
        time.sleep(0.001)
    marks["answered"] = time.monotonic()
    print(json.dumps(marks), flush=True)
    client.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
