"""Pointsman with the endpoints of one scenario of ``traffic.py``, until SIGTERM. Usage:

    pointsman_traffic.py PORT split                two replicas behind /single, one and one behind /split
    pointsman_traffic.py PORT shadow [TIMEOUT_S]   /plain, and /shadowed with a shadow that hangs
    pointsman_traffic.py PORT headers on|off       /noop
    pointsman_traffic.py PORT shares               /shares over three backends, by two ingress processes

/ready is made last: once it answers, every ingress has all the others.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import pointsman as serve

SHADOWED = 0.1
SHARES = {"a": 0.5, "b": 0.3, "c": 0.2}


def noop(request: Any) -> str:
    return "ok"


async def hang(request: Any) -> str:
    await asyncio.sleep(3600)
    return "never"


def split(client: serve.Client) -> None:
    client.create_backend("one", noop, config={"num_replicas": 2})
    client.create_backend("a", noop)
    client.create_backend("b", noop)
    add_endpoint(client, "single", "one")
    add_endpoint(client, "split", "a")
    client.set_traffic("split", {"a": 0.5, "b": 0.5})


def shadow(client: serve.Client) -> None:
    client.create_backend("one", noop)
    client.create_backend("hang", hang)
    add_endpoint(client, "plain", "one")
    add_endpoint(client, "shadowed", "one")
    client.shadow_traffic("shadowed", "hang", SHADOWED)


def headers(client: serve.Client) -> None:
    client.create_backend("one", noop)
    add_endpoint(client, "noop", "one")


def shares(client: serve.Client) -> None:
    for tag in SHARES:
        client.create_backend(tag, noop)
    add_endpoint(client, "shares", "a")
    client.set_traffic("shares", SHARES)


def add_endpoint(client: serve.Client, name: str, backend: str) -> None:
    client.create_endpoint(name, backend=backend, route=f"/{name}", methods=["POST"])


def main(port: int, scenario: str, *arguments: str) -> None:
    options: dict[str, Any] = {"port": port}
    if scenario == "shadow" and arguments:
        options["request_timeout_s"] = float(arguments[0])
    elif scenario == "headers":
        options["expose_headers"] = arguments == ("on",)
    elif scenario == "shares":
        options["processes"] = 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with serve.start(http_options=options) as client:
        {"split": split, "shadow": shadow, "headers": headers, "shares": shares}[scenario](client)
        add_endpoint(client, "ready", next(iter(client.list_backends())))
        while True:
            signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
