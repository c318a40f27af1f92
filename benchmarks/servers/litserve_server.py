"""LitServe, in LitServe's own environment. Usage: litserve_server.py PORT and

batching | sleeping              a worker that runs batches; four that sleep as told
model NAME | batches NAME        a worker with a model of ``models.py``, one by one or in batches
"""

# Without `from __future__ import annotations`: LitServe looks at annotations, and cannot read strings.

import sys
import time
from typing import Annotated, Any

import litserve  # type: ignore[import-not-found]  # installed in benchmarks/.peers only
from batchmodel import MAX_BATCH, compute
from fastapi import Body

WAIT_S = 0.01


class Api(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # the JSON
        return request

    def encode_response(self, output):  # type: ignore[no-untyped-def]
        return output


class InBatches(Api):
    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output


class Batching(InBatches):
    def predict(self, inputs: list[Any]) -> list[str]:
        compute(len(inputs))
        return ["ok"] * len(inputs)


class Sleeping(Api):
    def predict(self, seconds: float) -> str:
        time.sleep(seconds)
        return "ok"


class Model(Api):
    def setup(self, device: str) -> None:
        import models

        self.model = models.MODELS[sys.argv[3]]()

    def decode_request(self, request: Annotated[bytes, Body()]) -> bytes:
        return request

    def predict(self, body: bytes) -> float:
        return self.model([body])[0]


class ModelInBatches(Model, InBatches):
    def predict(self, bodies: list[bytes]) -> list[float]:  # type: ignore[override]
        return self.model(bodies)


if __name__ == "__main__":
    kinds: dict[str, tuple[type[Api], int, dict[str, Any]]] = {
        "batching": (Batching, 1, {"max_batch_size": MAX_BATCH, "batch_timeout": WAIT_S}),
        "sleeping": (Sleeping, 4, {}),
        "model": (Model, 1, {}),
        "batches": (ModelInBatches, 1, {"max_batch_size": 16, "batch_timeout": WAIT_S}),
    }
    api, workers, options = kinds[sys.argv[2]]
    server = litserve.LitServer(api(**options), accelerator="cpu", workers_per_device=workers)
    quiet = {"log_level": "warning", "generate_client_file": False, "pretty_logs": False, "access_log": False}
    server.run(host="127.0.0.1", port=int(sys.argv[1]), **quiet)
