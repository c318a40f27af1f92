"""What the screenshots show: a shop that has been busy for a while. Run it to look at the page yourself:
``python -m tests.browser.gallery`` prints a link."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

import pointsman as serve
from pointsman import compare
from tests.browser.shop import Shop, calls, opened
from tests.conftest import wait_until

SHADOWED, ROLLED, SCALED = "rank", "summarize", "embed"
"""Endpoints: with a canary and a shadow, with a rollout, with replicas by demand."""

SCALED_BACKEND, FAILING_BACKEND = "embedder", "translator"

WEIGHTS = Path(tempfile.gettempdir(), f"pointsman-gallery-{os.getpid()}.bin")


class Model:
    """Takes its time, fails now and then, and differs from others for some items."""

    def __init__(self, delay_s: float, failing: float = 0.0, weights: str = "", differing: int = 0) -> None:
        self.delay_s = delay_s
        self.failing = failing
        self.differing = differing
        if weights:
            Path(weights).read_bytes()

    def __call__(self, request: serve.Request) -> dict[str, int]:
        if request.query_params.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if random.random() < self.failing:
            raise LookupError("no item of that id")
        time.sleep(self.delay_s * random.uniform(0.6, 1.8))
        if random.random() < 0.05:
            print("asked again, the answer was empty")
        item = int(request.query_params.get("item", 0))
        return {"item": item, "score": item % 7 + (item % 100 < self.differing)}


def furnish(client: serve.Client) -> None:
    """Seven backends behind five endpoints."""
    WEIGHTS.write_bytes(b"weights")
    client.create_backend("ranker-v1", Model, 0.004, config={"num_replicas": 2})
    client.create_backend("ranker-v2", Model, 0.007, 0.02)
    client.create_backend("ranker-v3", Model, 0.003, 0.0, "", 3)
    client.create_backend("summarizer-v1", Model, 0.01)
    client.create_backend("summarizer-v2", Model, 0.011)
    client.create_backend("embedder", Model, 0.02, config={"autoscaling": {"max_replicas": 4}})
    client.create_backend("translator", Model, 0.01, 0.0, str(WEIGHTS))
    for endpoint, backend in (
        (SHADOWED, "ranker-v1"),
        (ROLLED, "summarizer-v1"),
        (SCALED, "embedder"),
        ("translate", "translator"),
        ("search/autocomplete", "embedder"),
    ):
        client.create_endpoint(endpoint, backend=backend, route=f"/{endpoint}", methods=["GET", "POST"])


def change(shop: Shop) -> None:
    """What people have done lately, and what went wrong."""
    for weights in ({"ranker-v1": 0.98, "ranker-v2": 0.02}, {"ranker-v1": 0.9, "ranker-v2": 0.1}):
        shop.api("PUT", f"/endpoints/{SHADOWED}/traffic", json={"weights": weights})
    shop.client.shadow_traffic(SHADOWED, "ranker-v3", 0.2, compare=compare.json())
    shop.client.start_rollout(ROLLED, "summarizer-v2", steps=[0.05, 0.25, 1.0], hold_s=90)
    WEIGHTS.unlink()
    for endpoint in ("translate", SHADOWED):
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(f"{shop.client.http_address}/{endpoint}", params={"die": "1"})


@contextlib.contextmanager
def busy(seconds: float) -> Iterator[Shop]:
    """The shop, after it has been called for a while."""
    with contextlib.ExitStack() as stack:
        shop = stack.enter_context(opened(furnish))
        address = shop.client.http_address
        for endpoint, every_s in (
            (SHADOWED, 0.02),
            (SHADOWED, 0.05),
            (ROLLED, 0.03),
            (SCALED, 0.1),
            ("translate", 0.4),
        ):
            stack.enter_context(calls(f"{address}/{endpoint}", every_s))
        change(shop)
        began = time.monotonic()
        wait_until(lambda: time.monotonic() > began + seconds, timeout_s=2 * seconds + 60, what="a while")
        yield shop


def main() -> None:
    """Serve the shop until Ctrl-C."""
    with busy(0) as shop:
        for role in shop.tokens:
            print(role, shop.link(role), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
