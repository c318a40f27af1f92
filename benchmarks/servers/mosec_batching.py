"""Mosec with one worker that runs batches; its default wait of 10 ms. Runs in Mosec's own environment.

Usage: mosec_batching.py --address 127.0.0.1 --port PORT (Mosec reads the options itself)
"""

from __future__ import annotations

from typing import Any

from batchmodel import MAX_BATCH, compute
from mosec import Server, Worker  # type: ignore[import-not-found]  # installed in benchmarks/.peers only


class Model(Worker):  # type: ignore[misc]
    def forward(self, data: list[Any]) -> list[str]:
        compute(len(data))
        return ["ok"] * len(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Model, num=1, max_batch_size=MAX_BATCH)
    server.run()
