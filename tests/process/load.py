"""Requests that come all the while, each with what came of it."""

from __future__ import annotations

import threading
from typing import NamedTuple

import pointsman as serve
from tests.conftest import http_for, wait_until

PAUSE_S = 0.01
"""What each thread waits between two requests; else the load would take the processors from what is waited for."""


class Answered(NamedTuple):
    """One request: how many had been sent before it, and its answer."""

    number: int
    status: int
    text: str


class Load:
    """Asks a route from several threads for as long as it is open.

    Args:
        path: asked with each of the methods in turn.
    """

    def __init__(
        self, client: serve.Client, path: str, *, methods: tuple[str, ...] = ("GET", "POST"), threads: int = 3
    ):
        self.answers: list[Answered] = []
        self.sent = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(client, path, methods)) for _ in range(threads)]

    def _ask(self, client: serve.Client, path: str, methods: tuple[str, ...]) -> None:
        with http_for(client) as http:
            while not self._stop.wait(PAUSE_S):
                with self._lock:
                    self.sent += 1
                    number = self.sent
                answer = http.request(methods[number % len(methods)], path)
                self.answers.append(Answered(number, answer.status_code, answer.text))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.goes_on(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self, count: int) -> None:
        """Wait until so many more requests were answered."""
        wanted = len(self.answers) + count
        wait_until(lambda: len(self.answers) >= wanted, what=f"{count} more answers")

    @property
    def statuses(self) -> set[int]:
        return {answer.status for answer in self.answers}

    def late(self, since: int, version: int) -> list[Answered]:
        """Answers of an older version to requests that were sent after ``since`` others."""
        return [answer for answer in self.answers if answer.number > since and int(answer.text) < version]
