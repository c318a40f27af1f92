"""LitServe with one worker that runs batches, in LitServe's own environment. Usage: litserve_server.py PORT"""

from __future__ import annotations

import sys
from typing import Any

import litserve  # type: ignore[import-not-found]  # installed in benchmarks/.peers only
from batchmodel import MAX_BATCH, compute


class Model(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # FastAPI would look at annotations
        return request

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, inputs: list[Any]) -> list[str]:
        compute(len(inputs))
        return ["ok"] * len(inputs)

    def unbatch(self, output: list[str]) -> list[str]:
        return output

    def encode_response(self, output: str) -> str:
        return output


if __name__ == "__main__":
    api = Model(max_batch_size=MAX_BATCH, batch_timeout=0.01)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    quiet = {"log_level": "warning", "generate_client_file": False, "pretty_logs": False, "access_log": False}
    server.run(host="127.0.0.1", port=int(sys.argv[1]), **quiet)
