"""Pointsman with what one side of a scenario needs, until SIGTERM. Usage: pointsman_server.py PORT SETTING [ARGUMENT]

The settings are the keys of ``SINGLE``, which lead to one backend behind /model, and split, shadow, evidence. /model is
made last: once it answers, the ingress has all the others. The argument of "model" and "batches" is one of
``models.MODELS``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import msgspec
from batchmodel import CHUNK, CHUNKS, MAX_BATCH, compute, compute_unlocked
from pydantic import BaseModel

import pointsman as serve

KEY = "a-key-of-43-characters-as-secrets-makes-them"
"""In ``scenarios.toml``, too."""
MODELS = ("model", "batches")


def noop(request: Any) -> str:
    return "ok"


async def async_noop(request: Any) -> str:
    return "ok"


async def guess(request: Any) -> dict[str, Any]:
    return {"label": "cat", "scores": [0.1, 0.2, 0.7]}


async def hang(request: Any) -> str:
    await asyncio.sleep(3600)
    return "never"


class Flower(BaseModel):
    """All fields have defaults: the load's body is empty."""

    sepal: float = 5.1
    petals: list[float] = []


class Leaf(msgspec.Struct):
    sepal: float = 5.1
    petals: list[float] = []


class Guess(BaseModel):
    label: str
    score: float


class LeafGuess(msgspec.Struct):
    label: str
    score: float


def untyped(request: Any) -> dict[str, Any]:
    flower = request.json()
    return {"label": "setosa", "score": flower.get("sepal", 5.1)}


def typed(flower: Flower) -> Guess:
    return Guess(label="setosa", score=flower.sepal)


def typed_struct(leaf: Leaf) -> LeafGuess:
    return LeafGuess("setosa", leaf.sepal)


@serve.accept_batch
def model(requests: list[Any]) -> list[str]:
    compute(len(requests))
    return ["ok"] * len(requests)


@serve.accept_batch
def unlocked_model(requests: list[Any]) -> list[str]:
    compute_unlocked(len(requests))
    return ["ok"] * len(requests)


def single(request: Any) -> str:
    compute(1)
    return "ok"


def sleeping(request: Any) -> str:
    time.sleep(float(request.body()))
    return "ok"


class Model:
    def __init__(self, name: str) -> None:
        import models

        self.model = models.MODELS[name]()

    def __call__(self, request: Any) -> float:
        return self.model([request.body()])[0]


class ModelInBatches(Model):
    @serve.accept_batch
    def __call__(self, requests: list[Any]) -> list[float]:  # type: ignore[override]
        return self.model([request.body() for request in requests])


def stream(request: Any) -> Generator[bytes, None, None]:
    for _ in range(CHUNKS):
        yield CHUNK


async def async_stream(request: Any) -> AsyncGenerator[bytes, None]:
    for _ in range(CHUNKS):
        yield CHUNK


BATCHES = {"max_batch_size": MAX_BATCH, "batch_wait_timeout": 0}
SINGLE: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "noop": (noop, {}),
    "async": (async_noop, {}),
    "untyped": (untyped, {}),
    "typed": (typed, {}),
    "typed-struct": (typed_struct, {}),
    "wait": (model, BATCHES),
    "unlocked": (unlocked_model, BATCHES),
    "target": (model, {"max_batch_size": MAX_BATCH, "target_latency_ms": 50}),
    "overload": (model, {**BATCHES, "max_queued_queries": 100}),
    "overload-single": (single, {"max_queued_queries": 60}),  # with the 100 in the replica less than a second of work
    "sleeping": (sleeping, {"num_replicas": 4}),
    "model": (Model, {}),
    "batches": (ModelInBatches, {"max_batch_size": 16}),
    "stream": (stream, {}),
    "async-stream": (async_stream, {}),
    "no-headers": (noop, {}),
    "no-metrics": (noop, {}),
    "replicas": (noop, {"num_replicas": 50}),
    "keys": (noop, {}),
    "cors": (noop, {}),
    "tls": (noop, {}),
}


def add_endpoint(client: serve.Client, name: str, backend: str) -> None:
    client.create_endpoint(name, backend=backend, route=f"/{name}", methods=["POST"])


def split(client: serve.Client) -> None:
    """Two replicas behind /model, one and one behind /split."""
    client.create_backend("one", noop, config={"num_replicas": 2})
    for tag in "ab":
        client.create_backend(tag, noop)
    add_endpoint(client, "split", "a")
    client.set_traffic("split", {"a": 0.5, "b": 0.5})


def shadow(client: serve.Client) -> None:
    """/shadowed leads to the same replica as /model, and a tenth of its requests also to a backend that hangs."""
    client.create_backend("one", noop)
    client.create_backend("hang", hang)
    add_endpoint(client, "shadowed", "one")
    client.shadow_traffic("shadowed", "hang", 0.1)


def evidence(client: serve.Client) -> None:
    """The same two backends behind all: /mirrored and /compared have a shadow of 0.1, /split and /rolled are split."""
    client.create_backend("one", guess)
    client.create_backend("two", guess)
    for name in ("mirrored", "compared", "split", "rolled"):
        add_endpoint(client, name, "one")
    client.shadow_traffic("mirrored", "two", 0.1)
    client.shadow_traffic("compared", "two", 0.1, compare="json")
    client.set_traffic("split", {"one": 0.5, "two": 0.5})
    client.start_rollout("rolled", "two", steps=[0.5, 1], hold_s=86400)


def certificate() -> dict[str, str]:
    """A certificate for loopback, made by openssl."""
    folder = tempfile.mkdtemp(prefix="pointsman-bench-")
    cert, key = f"{folder}/cert.pem", f"{folder}/key.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    made = ["openssl", "req", "-x509", *kind, "-nodes", "-subj", "/CN=127.0.0.1", "-keyout", key, "-out", cert]
    subprocess.run(made, check=True, capture_output=True, timeout=60)
    return {"cert": cert, "key": key}


def main(port: int, setting: str, argument: str = "") -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    http: dict[str, Any] = {"port": port, "expose_headers": setting != "no-headers"}
    options: dict[str, Any] = {"http_options": http}
    if setting == "shadow" and argument:
        http["request_timeout_s"] = float(argument)
    elif setting == "no-metrics":
        options["metrics_export_port"] = None
    elif setting == "keys":
        options["api_keys"] = [serve.ApiKey("bench", KEY)]
    elif setting == "cors":
        http["cors"] = {"allow_origins": ["https://app.example"]}
    elif setting == "tls":
        http["tls"] = certificate()
    elif setting == "replicas":
        options["metrics_export_port"] = int(os.environ["BENCH_SPARE_PORT"])
    elif argument and setting not in MODELS:
        options["engine"] = argument
    with serve.start(**options) as client:
        if setting in SINGLE:
            code, config = SINGLE[setting]
            client.create_backend("one", code, *[argument] * (setting in MODELS), config=config)
        else:
            {"split": split, "shadow": shadow, "evidence": evidence}[setting](client)
        add_endpoint(client, "model", next(iter(client.list_backends())))
        while True:
            signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
