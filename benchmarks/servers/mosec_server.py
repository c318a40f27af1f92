"""Mosec with one worker and default settings, in Mosec's own environment. Usage: mosec_server.py PORT noop|batching"""

from __future__ import annotations

import sys
from typing import Any

from batchmodel import MAX_BATCH, compute
from mosec import Server, Worker  # type: ignore[import-not-found]  # installed in benchmarks/.peers only


class Noop(Worker):  # type: ignore[misc]
    def forward(self, data: Any) -> str:
        return "ok"


class Batching(Worker):  # type: ignore[misc]
    def forward(self, data: list[Any]) -> list[str]:
        compute(len(data))
        return ["ok"] * len(data)


if __name__ == "__main__":
    port, kind = sys.argv[1:]
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", port]  # which Mosec reads by itself
    server = Server()
    if kind == "noop":
        server.append_worker(Noop, num=1)
    else:
        server.append_worker(Batching, num=1, max_batch_size=MAX_BATCH)
    server.run()
