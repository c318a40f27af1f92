"""Mosec with default settings, in Mosec's own environment. Usage: mosec_server.py PORT and

noop | batching | sleeping       a worker that does nothing; one that runs batches; four that sleep as told
model NAME | batches NAME        a worker with a model of ``models.py``, one by one or in batches
"""

from __future__ import annotations

import os
import sys
import time
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


class Sleeping(Worker):  # type: ignore[misc]
    def forward(self, data: float) -> str:
        time.sleep(data)
        return "ok"


class Model(Worker):  # type: ignore[misc]
    def __init__(self) -> None:
        import models

        self.model = models.MODELS[os.environ["MODEL"]]()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> float:
        return self.model([data])[0]


class ModelInBatches(Model):
    def forward(self, data: list[bytes]) -> list[float]:  # type: ignore[override]
        return self.model(data)


KINDS: dict[str, tuple[type, dict[str, int]]] = {
    "noop": (Noop, {"num": 1}),
    "batching": (Batching, {"num": 1, "max_batch_size": MAX_BATCH}),
    "sleeping": (Sleeping, {"num": 4}),
    "model": (Model, {"num": 1}),
    "batches": (ModelInBatches, {"num": 1, "max_batch_size": 16}),
}

if __name__ == "__main__":
    port, kind, *name = sys.argv[1:]
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", port]  # which Mosec reads by itself
    server = Server()
    worker, options = KINDS[kind]
    server.append_worker(worker, **options, env=[{"MODEL": name[0]}] if name else None)
    server.run()
