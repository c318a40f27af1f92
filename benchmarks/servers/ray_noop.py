"""Ray Serve with one replica that does nothing, with its defaults, in Ray's own environment, until SIGTERM.

Usage: ray_noop.py PORT
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray  # installed in benchmarks/.peers only
from ray import serve


class Noop:
    def __call__(self, request: Any) -> str:
        return "ok"


def main(port: int) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    ray.init(include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(serve.deployment(Noop).bind(), route_prefix="/noop")
    while True:
        signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]))
