"""console.splits: how the parts of a split have gone, as the charts of an endpoint show them."""

from __future__ import annotations

import pytest

from pointsman.console.sampler import endpoint_moments
from pointsman.console.samples import Part, Sample
from pointsman.console.series import SECONDS, SLOT_S, SLOTS, Series
from pointsman.console.splits import MOST, Splits
from pointsman.model.evidence import Tally
from pointsman.telemetry.fresh import NO_GAUGES


class Numbers:
    """The series of endpoints and of the parts of splits, as a sampler has them."""

    def __init__(self) -> None:
        self.endpoints = Series("queued")
        self.splits = Splits(self.endpoints)
        self.step = 0

    def second(self, *parts: Part, step: int | None = None) -> None:
        """Ten calls for each of these in the next second."""
        self.step = self.step + 1 if step is None else step
        sample = Sample(1.0, {part: Tally(10, 0, {}) for part in parts}, NO_GAUGES)
        self.endpoints.push(self.step, 1.0, endpoint_moments(sample))
        self.splits.push(self.step, sample)

    def rates(self, endpoint: str, backend: str, *, day: bool = False) -> list[float | None]:
        return [row[0] for row in self.splits.of(endpoint, backend, self.step, day=day)]


OLD, NEW = Part("rank", "v1"), Part("rank", "v2")


def test_the_chart_of_a_canary_shows_its_part_alone() -> None:
    """A backend that answers two endpoints is shown beside the other version with the calls of this endpoint (CR1)."""
    numbers = Numbers()
    numbers.second(OLD, NEW, Part("search", "v1"))
    assert numbers.rates("rank", "v1")[-1] == 10
    assert numbers.rates("rank", "v2")[-1] == 10
    assert len(numbers.rates("rank", "v1")) == SECONDS
    assert len(numbers.rates("rank", "v1", day=True)) == SLOTS


def test_before_the_split_the_only_backend_had_all_calls() -> None:
    """A canary starts: the line of the old version goes on from what it had, and that of the new one begins."""
    numbers = Numbers()
    for parts in ((OLD,), (OLD,), (OLD, NEW)):
        numbers.second(*parts)
    assert numbers.rates("rank", "v1")[-4:] == [None, 10, 10, 10]
    assert numbers.rates("rank", "v2")[-4:] == [None, None, None, 10]


def test_an_endpoint_with_one_backend_is_that_backend() -> None:
    """Without a split the part is the whole, and a backend without calls has no line."""
    numbers = Numbers()
    numbers.second(OLD, Part("rank", "v3", shadow=True))
    assert numbers.rates("rank", "v1")[-1] == 10
    assert set(numbers.rates("rank", "v3")) == {None}
    assert set(numbers.rates("nobody", "v1")) == {None}


def test_splits_are_forgotten_after_a_day() -> None:
    """A day after the last call nothing is kept of a part, whatever was split in the meantime."""
    numbers = Numbers()
    numbers.second(OLD, NEW)
    numbers.second(step=SLOT_S * (SLOTS + 2))
    assert not numbers.splits._seen
    assert not numbers.splits._backends
    assert not numbers.splits._began


def test_a_thousand_splits_take_no_more_memory_than_a_few_hundred() -> None:
    """Beyond that an endpoint's parts have no series of their own, and the answer says so (CR8)."""
    numbers = Numbers()
    numbers.second(*(Part(f"e{number}", backend) for number in range(MOST) for backend in ("v1", "v2")))
    assert numbers.rates("e0", "v2")[-1] == 10
    assert len(numbers.splits._began) == MOST // 2
    with pytest.raises(ValueError, match="series are kept for"):
        numbers.rates(f"e{MOST - 1}", "v2")
