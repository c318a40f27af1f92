"""controller.store.base: when the store's copy is made."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from pointsman.controller.state import Desired
from pointsman.controller.store import base
from pointsman.controller.store.base import DurableState
from pointsman.testing import run
from tests.loop.simulation import MemoryStore


class SlowCopies(MemoryStore):
    """Its copies take as long as is said, by the clock that it brings along."""

    def __init__(self, take_s: float) -> None:
        super().__init__()
        self.take_s = take_s
        self.clock = 0.0
        self.copies = 0

    def copy(self) -> None:
        self.clock += self.take_s
        self.copies += 1


@pytest.mark.parametrize(("take_s", "after_a_minute"), [(0.0, 60), (0.04, 60), (0.5, 6), (30.0, 1)])
def test_copies_of_a_large_state_are_made_less_often(
    take_s: float, after_a_minute: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream of changes is copied every second, or for a twentieth of the time where the state is so large that a
    copy takes long: changes wait for the copy that is being made (G6)."""

    async def main() -> None:
        store = SlowCopies(take_s)
        monkeypatch.setattr(base, "time", SimpleNamespace(monotonic=lambda: store.clock))
        state = DurableState(store, lambda new: None)
        for version in range(1, 601):
            await state.commit(Desired(version))
            await asyncio.sleep(0.1)
        assert after_a_minute - 6 <= store.copies <= after_a_minute + 1
        await state.aclose()

    run(main())
