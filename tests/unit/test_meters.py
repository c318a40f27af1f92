"""lock.meters: what a key may still do, for all HTTP servers of a node together."""

from __future__ import annotations

import random

import pytest

import pointsman as serve
from pointsman.lock.meters import Meter


def meters(count: int = 1, **limits: float) -> list[Meter]:
    """The meters of one key in the HTTP servers of a node."""
    cells = [0.0] * (1 + count)
    spec = serve.ApiKey("a", "k", **limits).spec  # type: ignore[arg-type]
    return [Meter(spec, cells, own) for own in range(count)]


@pytest.mark.parametrize("servers", [1, 2, 5])
@pytest.mark.parametrize("rate", [0.5, 10, 333])
def test_a_rate_holds_however_requests_fall_to_servers(rate: float, servers: int) -> None:
    """A client that asks all the time is let in as often as its rate says, behind its burst (ED4)."""
    shared, draw = meters(servers, rate=rate), random.Random(5)
    seconds, let_in, now = 100.0, 0, 1e6
    end = now + seconds
    while now < end:
        meter = draw.choice(shared)
        if meter.begin(now) == 0.0:
            let_in += 1
            meter.end()
        now += draw.uniform(0, 0.05 / rate)
    assert let_in == pytest.approx(rate * seconds + max(1, rate), rel=0.02, abs=1)


def test_a_burst() -> None:
    """As many requests as the burst says may come at once; then the time of the next one is told (ED4)."""
    (meter,) = meters(rate=2, burst=3)
    assert [meter.begin(50.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert meter.begin(50.0) == pytest.approx(0.5)
    assert meter.begin(50.4) == pytest.approx(0.1)
    assert meter.begin(50.5) == 0.0
    assert meter.begin(50.5) > 0
    assert [meter.begin(1000.0) == 0.0 for _ in range(4)] == [True, True, True, False], (
        "no more than the burst is saved"
    )


def test_requests_under_way() -> None:
    """No more requests are under way than the key says, in all servers together; a refused one counts nothing (ED4)."""
    one, two = meters(2, max_in_flight=2, rate=1000)
    assert one.begin(1.0) == two.begin(1.0) == 0.0
    assert one.begin(1.0) == two.begin(1.0) == 1.0
    two.end()
    assert one.begin(1.0) == 0.0
    one.end(), one.end(), one.end()
    assert two.begin(1.0) == two.begin(1.0) == 0.0
    assert two.begin(1.0) == 1.0


def test_a_rate_that_is_raised() -> None:
    """Whoever gets a better rate does not wait by the old one (ED4)."""
    cells = [0.0, 0.0]
    old = Meter(serve.ApiKey("a", "k", rate=0.01).spec, cells, 0)
    assert old.begin(10.0) == 0.0
    assert old.begin(10.0) == pytest.approx(100)
    new = Meter(serve.ApiKey("a", "k", rate=10, burst=1).spec, cells, 0)
    assert new.begin(10.0) == pytest.approx(0.1)
    assert new.begin(10.2) == 0.0
