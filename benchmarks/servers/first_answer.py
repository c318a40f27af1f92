"""A fresh process from its first line to the first answer of a no-op backend. Prints when each step was done, as JSON.

Times are ``time.monotonic()``, which all processes of a machine share. It imports little: that time counts, too.
"""

from __future__ import annotations

import time

marks = {"interpreter": time.monotonic()}

import json  # noqa: E402
import socket  # noqa: E402
from typing import Any  # noqa: E402

import pointsman as serve  # noqa: E402

marks["imported"] = time.monotonic()


def noop(request: Any) -> str:
    return "ok"


def ask(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET /noop HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    return answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"ok")


if __name__ == "__main__":
    with serve.start(http_options={"port": 0}) as client:
        marks["started"] = time.monotonic()
        client.create_backend("noop", noop)
        marks["backend"] = time.monotonic()
        client.create_endpoint("noop", backend="noop", route="/noop")
        marks["endpoint"] = time.monotonic()
        while not ask(int(str(client.http_address).rpartition(":")[2])):
            time.sleep(0.001)
        marks["answered"] = time.monotonic()
    print(json.dumps(marks))
