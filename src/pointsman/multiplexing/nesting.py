"""Loads that need other models, and those of them that could never end.

A loader may ask for further models, such as one that many adapters share. If these need the first one in turn, each
load would wait for the other for ever, and keep its place: so the wait that would close a circle is refused.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from asyncio import run
from collections.abc import Callable, Iterator
from typing import Any

from pointsman.context import CallScope, UsedModels, call_scope
from pointsman.exceptions import ServeException

ROOM_S = 30.0
"""How long a load waits for room for another model, which may be the very place that itself takes."""

Key = tuple[object, str]
"""What keeps a model, and its id."""


class Nesting:
    """What runs for models in this process, and which others it waits for. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[UsedModels, Key] = {}
        self._needs: dict[Key, list[Key]] = {}

    def call(self, key: Key, function: Callable[..., Any], *args: Any) -> Any:
        """Call what loads, measures or unloads a model, and await what an ``async def`` gives. It may use other
        models."""
        scope = CallScope(float("inf"), "")
        scope.models = models = UsedModels(key[1])
        call_scope.set(scope)
        self._running[models] = key
        try:
            result = function(*args)
            return run(result) if inspect.iscoroutine(result) else result
        finally:
            del self._running[models]
            models.end()

    def of(self, scope: CallScope | None) -> Key | None:
        """The model for which the code of a scope runs; None if that is a call, or nothing of ours."""
        return None if scope is None or scope.models is None else self._running.get(scope.models)

    @contextlib.contextmanager
    def waits(self, key: Key | None, wanted: Key) -> Iterator[None]:
        """What runs for one model waits for another meanwhile. No effect if ``key`` is None.

        Raises:
            ServeException: the other one waits for it.
        """
        if key is None:
            yield
            return
        with self._lock:
            if self._waits_for(wanted, key):
                raise ServeException(
                    f"model {wanted[1]!r} needs model {key[1]!r} itself, so the load of the latter cannot wait for it"
                )
            self._needs.setdefault(key, []).append(wanted)
        try:
            yield
        finally:
            with self._lock:
                needs = self._needs[key]
                needs.remove(wanted)
                if not needs:
                    del self._needs[key]

    def _waits_for(self, start: Key, goal: Key) -> bool:
        seen, ahead = {start}, [start]
        while ahead:
            key = ahead.pop()
            if key == goal:
                return True
            new = set(self._needs.get(key, ())) - seen
            seen |= new
            ahead += new
        return False


NESTING = Nesting()


def no_room(model_id: str) -> ServeException:
    return ServeException(f"a load needs model {model_id!r}, for which there was no room within {ROOM_S:g} s")
