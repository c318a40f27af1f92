"""console.samples and console.series: the numbers of the page, of the last ten seconds and as they have gone."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.console.sampler import backend_moments, endpoint_moments
from pointsman.console.samples import WINDOW_S, Part, Recent, Sample, p50_p99_s
from pointsman.console.series import SECONDS, SLOT_S, SLOTS, Moment, Series, packed, unpacked
from pointsman.model.evidence import Tally
from pointsman.stats.latency import bucket_of
from pointsman.telemetry.fresh import NO_GAUGES
from pointsman.telemetry.windows import quantile_s

V1, V2, COPY = Part("rank", "v1"), Part("rank", "v2"), Part("rank", "v2", shadow=True)


def calls(count: int, *, errors: int = 0, seconds: float = 0.01) -> Tally:
    return Tally(count, errors, {bucket_of(seconds): count} if count else {})


def recent(*samples: Sample) -> Recent:
    numbers = Recent()
    for sample in samples:
        numbers.push(sample)
    return numbers


def test_ten_seconds_are_shown_together() -> None:
    """The page shows rates, shares of errors and latencies of the last ten seconds (AD8)."""
    sample = Sample(1.0, {V1: calls(90, errors=9), V2: calls(10, seconds=0.1)}, NO_GAUGES)
    view = recent(sample, sample).view()["endpoints"]["rank"]
    assert (view["per_second"], view["error_share"], view["queued"]) == (100, 0.09, 0)
    assert view["p50_ms"] == pytest.approx(10, rel=0.02)
    assert view["p99_ms"] == pytest.approx(100, rel=0.02)
    assert view["backends"]["v1"]["per_second"] == 90
    assert view["backends"]["v2"]["error_share"] == 0


def test_what_is_idle_is_left_out() -> None:
    """Nothing was asked of an endpoint for ten seconds: it is not sent any more, and nothing of it is kept."""
    numbers = recent(Sample(1.0, {V1: calls(1)}, NO_GAUGES))
    for _ in range(WINDOW_S - 1):
        numbers.push(Sample(1.0, {}, NO_GAUGES))
        assert numbers.view()["endpoints"]["rank"]["per_second"] > 0
    numbers.push(Sample(1.0, {}, NO_GAUGES))
    assert numbers.view() == {"endpoints": {}, "backends": {}}
    assert not numbers._parts


def test_only_the_last_ten_samples_count() -> None:
    """What came before the last ten seconds is as if it had never been (AD8)."""
    samples = [
        Sample(1.0, {V1: calls(n, errors=n % 3, seconds=0.01 * n), V2: calls(n % 4, seconds=0.02)}, NO_GAUGES)
        for n in range(1, 25)
    ]
    assert recent(*samples).view() == recent(*samples[-WINDOW_S:]).view()


def test_many_busy_endpoints_are_kept_in_little_memory() -> None:
    """The numbers of a busy endpoint take 5 KB in the console, so those of a thousand 5 MB (CR8)."""
    busy = 100
    numbers = Recent()
    tracemalloc.start()
    try:
        for second in range(2 * WINDOW_S):
            spread = {bucket_of(0.001 * (1 + (second + place) % 30)): 1 for place in range(5)}
            numbers.push(Sample(1.0, {Part(f"e{n}", "b"): Tally(5, 0, dict(spread)) for n in range(busy)}, NO_GAUGES))
        assert tracemalloc.get_traced_memory()[0] < 5000 * busy
    finally:
        tracemalloc.stop()


def test_a_console_that_only_shows_does_without_validation() -> None:
    """The console starts without pydantic and the Ray engine, which would be a fifth of its memory (CR8)."""
    code = "import sys, pointsman.console.__main__; sys.exit(' '.join({'pydantic', 'ray', 'yaml'} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert not loaded.stderr.strip()


def test_ten_seconds_are_shown_however_many_samples_they_are() -> None:
    """Samples of five seconds, and one that has nothing new: what is shown together are ten seconds all the same."""
    numbers = recent(*[Sample(5.0, {V1: calls(50 * number)}, NO_GAUGES) for number in range(4)])
    numbers.push(Sample(0.0, {}, NO_GAUGES))
    assert numbers.view()["endpoints"]["rank"]["per_second"] == 25
    assert recent(Sample(0.0, {}, NO_GAUGES)).view() == {"endpoints": {}, "backends": {}}


def test_a_shadow_stands_beside_the_primary() -> None:
    """Copies count for the shadow and its backend, not for the endpoint, and dropped ones are shown (CR3)."""
    gauges = NO_GAUGES._replace(dropped={("rank", "v2"): 5})
    view = recent(Sample(1.0, {V1: calls(90), COPY: calls(9, errors=9)}, gauges)).view()
    assert view["endpoints"]["rank"]["per_second"] == 90
    assert view["endpoints"]["rank"]["shadows"]["v2"]["error_share"] == 1
    assert view["endpoints"]["rank"]["shadows"]["v2"]["dropped_per_second"] == 5
    assert view["backends"]["v2"]["per_second"] == 9


def test_queues_are_shown_without_calls() -> None:
    """Calls wait and none is answered: the endpoint and its backend are shown, with what waits."""
    gauges = NO_GAUGES._replace(waiting={("rank", "v1"): 7}, processing={"v1": 1}, replicas={"v1": {"a", "b"}})
    sample = Sample(1.0, {}, gauges)
    view = recent(sample).view()
    assert view["endpoints"]["rank"]["queued"] == 7
    assert view["endpoints"]["rank"]["p99_ms"] is None
    assert view["backends"]["v1"] | {"per_second": 0} == {
        "per_second": 0, "error_share": None, "p50_ms": None, "p99_ms": None, "batch_size": None, "processing": 1,
        "queued": 7, "replicas": 2,
    }  # fmt: skip
    assert endpoint_moments(sample)["rank"].gauges == (7,)
    assert backend_moments(sample)["v1"].gauges == (7, None, 2)


@given(st.dictionaries(st.integers(-600, 500), st.integers(1, 1000), max_size=40))
def test_both_percentiles_are_those_of_the_command_line(latencies: dict[int, int]) -> None:
    """The page and `pointsman top` show the same percentiles."""
    tally = Tally(latencies=latencies)
    assert p50_p99_s(tally.latencies) == (quantile_s(tally, 0.5), quantile_s(tally, 0.99))


@given(st.floats(1e-4, 1e9) | st.sampled_from([0.0, 1.0, 2.0, 3.0]))
def test_a_value_of_a_graph_is_right_to_three_digits(value: float) -> None:
    """A graph keeps 16 bits of each value: none is off by more than a person sees."""
    assert unpacked(packed(value)) == pytest.approx(value, rel=0.006)
    assert unpacked(packed(None)) is None


def test_graphs_reach_back_five_minutes_and_a_day() -> None:
    """A page that is opened after an hour shows the last five minutes by second, and the hour by five minutes (CR1)."""
    series = Series("queued")
    for step in range(3600):
        series.push(step, 1.0, {"rank": Moment(calls(step // SLOT_S), (step % 2,))} if step < 3000 else {})
    seconds, day = series.of("rank", 3599, day=False), series.of("rank", 3599, day=True)
    assert (len(seconds), len(day)) == (SECONDS, SLOTS)
    assert seconds[0] == [None] * 5  # it is idle by then
    assert [row[0] for row in day[-12:]] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, None, None]
    assert day[-4][2] == pytest.approx(10, rel=0.05)
    assert day[-4][4] == 0.5
    assert day[-13] == [None] * 5
    assert series.of("never", 3599, day=True) == [[None] * 5] * SLOTS


def test_the_slot_that_is_not_over_is_shown() -> None:
    """The console is a minute old: the day has one value, of that minute, at a rate of a second."""
    series = Series("queued")
    for step in range(1, 61):
        series.push(step, 1.0, {"rank": Moment(calls(10, errors=1), (0,))})
    assert series.of("rank", 60, day=True)[-1][:2] == [10, 0.1]
    assert series.of("rank", 61, day=False)[-3:][0][0] == 10
    assert series.of("rank", 61, day=False)[-1] == [None] * 5  # a second without a sample


def test_a_day_of_many_short_lives_does_not_fill_the_memory() -> None:
    """Endpoints come and go all day: what is in no graph any more is forgotten, its name too."""
    series = Series("queued")
    for step in range(0, 400 * SLOT_S, SLOT_S):
        series.push(step, 1.0, {f"rank-{step}": Moment(calls(1), (0,))})
    assert len(series._numbers) <= SLOTS + 14
    assert series.of("rank-0", step, day=True) == [[None] * 5] * SLOTS
