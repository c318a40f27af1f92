"""Pointsman with replicas of a no-op function, until SIGTERM.

Usage: pointsman_monitoring.py PORT METRICS_PORT REPLICAS, where a metrics port of -1 records nothing.
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import pointsman as serve


def noop(request: Any) -> str:
    return "ok"


def main(port: int, metrics_port: int, replicas: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    metrics = None if metrics_port < 0 else metrics_port
    with serve.start(http_options={"port": port}, metrics_export_port=metrics) as client:
        client.create_backend("noop", noop, config={"num_replicas": replicas})
        client.create_endpoint("noop", backend="noop", route="/noop", methods=["POST"])
        while True:
            signal.pause()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
