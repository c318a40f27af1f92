"""The console's page in Chromium: how soon something is seen and numbers come, how many elements it draws, and what it
is sent, with few endpoints and with a thousand.

    python -m tests.browser.figures [--endpoints 3,1000] [--times 5]

It needs chromium, and starts an instance for each number of endpoints; all of them are called. Nothing else should run
on the machine.
"""

from __future__ import annotations

import argparse
import re
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.browser.chromium import launched
from tests.browser.shop import Ranker, Shop, opened
from tests.browser.viewer import looking

SEEN_S = 10
"""How long the stream is counted."""

MOVING = re.compile(r"^(0\.\d|[1-9][\d.,]*$)")
"""A rate or a time; neither 0, nor a share, nor replicas."""

PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
ELEMENTS = "document.querySelectorAll('*').length"


@contextmanager
def shop_of(endpoints: int) -> Iterator[Shop]:
    """A console whose instance has so many endpoints, all called in turn."""

    def furnish(client: Any) -> None:
        client.create_backend("model", Ranker, 1)
        for number in range(endpoints):
            client.create_endpoint(f"endpoint-{number}", backend="model", route=f"/{number}")

    over = threading.Event()

    def call(url: str) -> None:
        with httpx.Client(timeout=60) as http:
            while not over.is_set():
                for number in range(endpoints):
                    http.get(f"{url}/{number}")
                    if over.wait(0.001):
                        return

    with opened(furnish) as shop:
        calling = threading.Thread(target=call, args=(shop.client.http_address,))
        calling.start()
        try:
            yield shop
        finally:
            over.set()
            calling.join()


def visit(browser: Any, shop: Shop) -> dict[str, float]:
    """Figures of one visit of the overview, by a tab with an empty cache."""
    with looking(browser) as viewer:
        began = time.monotonic()
        viewer.page.goto(shop.link())
        viewer.page.locator("main td .num", has_text=MOVING).first.wait_for()
        numbers_s = time.monotonic() - began
        seen = viewer.page.context.new_cdp_session(viewer.page)
        seen.send("Network.enable")
        sent = [0.0]
        seen.on("Network.dataReceived", lambda event: sent.__setitem__(0, sent[0] + event["encodedDataLength"]))
        viewer.page.reload()
        viewer.page.wait_for_timeout(3000)  # the first state is sent, and its files
        sent[0] = 0
        viewer.page.wait_for_timeout(1000 * SEEN_S)
        return {
            "first paint ms": viewer.page.evaluate(PAINTED),
            "numbers ms": 1000 * numbers_s,
            "elements": viewer.page.evaluate(ELEMENTS),
            "stream KB/s": sent[0] / SEEN_S / 1000,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--endpoints", default="3,1000")
    parser.add_argument("--times", type=int, default=5)
    asked = parser.parse_args()
    for endpoints in map(int, asked.endpoints.split(",")):
        with shop_of(endpoints) as shop, launched() as browser:
            visits = [visit(browser, shop) for _ in range(asked.times)]
        for what in visits[0]:
            values = [one[what] for one in visits]
            print(
                f"{endpoints} endpoints: {what} {statistics.median(values):.3g} ({min(values):.3g}-{max(values):.3g})",
                flush=True,
            )


if __name__ == "__main__":
    main()
