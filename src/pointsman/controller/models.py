"""Asks replicas which models they hold."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from pointsman.controller.observed import Observed
from pointsman.controller.replicas import Phase
from pointsman.controller.state import Desired, find_backend
from pointsman.exceptions import ServeException
from pointsman.wire.scaling import HeldModel, ModelDetails, ModelList

ANSWER_S = 3.0
"""How long a replica may take to say what it holds."""


class Models:
    """Asks replicas which models they hold.

    Args:
        ask: sends a question, by its number, to the replica with that number; False if that is not connected.
    """

    def __init__(self, ask: Callable[[int, int], bool]) -> None:
        self._ask = ask
        self._questions = itertools.count(1)
        self._asked: dict[tuple[int, int], asyncio.Future[tuple[HeldModel, ...]]] = {}

    async def of(self, desired: Desired, observed: Observed, tag: str) -> ModelList:
        """The models of a backend's replicas that serve. One that ends meanwhile is left out.

        Raises:
            ValueError: the backend does not exist.
            ServeException: a replica does not answer.
        """
        find_backend(desired, tag)
        replicas = {one.number: one.tag for one in observed.of(tag) if one.phase is Phase.READY}
        question, loop = next(self._questions), asyncio.get_running_loop()
        asked = {number: loop.create_future() for number in replicas if self._ask(number, question)}
        self._asked.update({(number, question): future for number, future in asked.items()})
        try:
            if asked:
                await asyncio.wait(asked.values(), timeout=ANSWER_S)
        finally:
            for number in asked:
                self._asked.pop((number, question), None)
        silent = [replicas[number] for number, future in asked.items() if not future.done()]
        if silent:
            raise ServeException(f"replica {silent[0]} did not say within {ANSWER_S:g} s which models it holds")
        there = {replicas[number]: future for number, future in asked.items() if not future.cancelled()}
        return ModelList({tag: future.result() for tag, future in there.items()})

    def told(self, number: int, question: int, details: ModelDetails) -> None:
        """A replica has answered."""
        future = self._asked.pop((number, question), None)
        if future is not None and not future.done():
            future.set_result(details.models)

    def lost(self, number: int) -> None:
        """The connection to a replica is lost."""
        for key in [key for key in self._asked if key[0] == number]:
            self._asked.pop(key).cancel()
