"""Reads an instance's metrics as Prometheus does, but with names exactly as they stand on the page."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx

import pointsman as serve
from tests.conftest import wait_until

SAMPLE = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Page:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self.samples: list[tuple[str, dict[str, str], float]] = []
        for line in text.splitlines():
            if line and not line.startswith("#"):
                match = SAMPLE.fullmatch(line)
                assert match, f"not a sample: {line!r}"
                self.samples.append((match["name"], dict(LABEL.findall(match["labels"] or "")), float(match["value"])))

    def of(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """Samples of a name with at least these labels."""
        return [(have, value) for n, have, value in self.samples if n == name and labels.items() <= have.items()]

    def sum(self, name: str, **labels: str) -> float:
        """Their sum; 0 where there are none."""
        return sum(value for _, value in self.of(name, **labels))

    @property
    def series(self) -> set[tuple[str, frozenset[tuple[str, str]]]]:
        return {(name, frozenset(labels.items())) for name, labels, _ in self.samples}


def scrape(client: serve.Client) -> Page:
    """The metrics of an instance as they are now."""
    assert client.metrics_address is not None
    return scrape_at(client.metrics_address)


def scrape_at(address: str) -> Page:
    """The metrics of one node."""
    answer = httpx.get(f"{address}/metrics", timeout=30)
    assert answer.status_code == 200
    return Page(answer.text)


def scrape_when(client: serve.Client, count: float, name: str, **labels: str) -> Page:
    """The metrics once a sum is so much. Some counts are made just after an answer has left, so a client that was quick
    may look before them."""
    pages = [scrape(client)]

    def is_so() -> bool:
        pages.append(scrape(client))
        return pages[-1].sum(name, **labels) >= count

    wait_until(is_so, what=f"{name} {labels} of {count:g}")
    assert pages[-1].sum(name, **labels) == count
    return pages[-1]


def difference(client: serve.Client) -> Callable[..., float]:
    """A function that tells by how much a sum has grown since now."""
    before = scrape(client)
    return lambda name, **labels: scrape(client).sum(name, **labels) - before.sum(name, **labels)
