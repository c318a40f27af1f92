"""Pointsman with one replica of a no-op function, until SIGTERM. Usage: pointsman_noop.py PORT sync|async [ENGINE]"""

from __future__ import annotations

import signal
import sys
from typing import Any

import pointsman as serve


def noop(request: Any) -> str:
    return "ok"


async def async_noop(request: Any) -> str:
    return "ok"


def main(port: int, flavour: str, engine: str = "local") -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with serve.start(engine=engine, http_options={"port": port}) as client:
        client.create_backend("noop", async_noop if flavour == "async" else noop)
        client.create_endpoint("noop", backend="noop", route="/noop", methods=["POST"])
        while True:
            signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
