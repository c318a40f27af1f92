"""Backends that remember what they were asked, and what is expected of chance."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from http.client import HTTPConnection
from typing import Any

import pointsman as serve
from tests.conftest import wait_until

SIGMAS = 5
"""Chance leaves this range once in a million shares."""


class Noted:
    """Answers with its backend's tag, and notes every call by endpoint."""

    def __init__(self):
        self.notes: dict[str, list[dict[str, Any]]] = {}

    def __call__(self, request):
        body = request.body()
        note = {
            "key": request.headers.get("x-serve-shard-key"),
            "shadow": request.headers.get("x-serve-shadow"),
            "method": request.method,
            "body": hashlib.sha256(body).hexdigest() if isinstance(body, bytes) else body,
            "params": dict(request.query_params),
        }
        self.notes.setdefault(request.url.path.strip("/"), []).append(note)
        return serve.get_current_backend_tag()

    def notes_of(self, request):
        return self.notes.get(request.body(), [])


class Backends:
    """Five backends of one test module; each can be asked what it was asked for an endpoint."""

    def __init__(self, client: serve.Client, prefix: str) -> None:
        self.tags = [f"{prefix}-{letter}" for letter in "abcde"]
        self._client = client
        for tag in self.tags:
            client.create_backend(tag, Noted)
            client.create_endpoint(tag, backend=tag)

    def notes(self, tag: str, endpoint: str) -> list[dict[str, Any]]:
        handle = self._client.get_handle(tag).options(method_name="notes_of")
        notes: list[dict[str, Any]] = handle.remote(endpoint).result()
        return notes

    def wait_for_notes(self, tag: str, endpoint: str, at_least: int) -> None:
        wait_until(lambda: len(self.notes(tag, endpoint)) >= at_least, what=f"{at_least} calls of {endpoint} at {tag}")

    def remove(self) -> None:
        for tag in self.tags:
            self._client.delete_endpoint(tag)
            self._client.delete_backend(tag, force=True)


def range_of(count: int, probability: float) -> tuple[int, int]:
    """Between what chance makes of so many draws."""
    slack = SIGMAS * math.sqrt(count * probability * (1 - probability))
    return math.ceil(count * probability - slack), math.floor(count * probability + slack)


def assert_shares(answers: list[str], weights: Mapping[str, float]) -> None:
    """Each backend gave as many of the answers as its weight says, and nobody else gave any."""
    counts = Counter(answers)
    assert not counts.keys() - weights.keys()
    for tag, weight in weights.items():
        low, high = range_of(len(answers), weight)
        assert low <= counts[tag] <= high, f"{tag} of weight {weight} gave {counts[tag]} of {len(answers)} answers"


def ask_often(client: serve.Client, path: str, count: int) -> list[str]:
    """The texts of so many answers over one connection, each of them 200."""
    assert client.http_address is not None
    connection = HTTPConnection(client.http_address.removeprefix("http://"), timeout=30)
    texts = []
    for _ in range(count):
        connection.request("GET", path)
        answer = connection.getresponse()
        texts.append(answer.read().decode())
        assert answer.status == 200, texts[-1]
    connection.close()
    return texts
