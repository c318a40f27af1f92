"""Evidence: what was counted, its windows, and the fake of tests."""

from __future__ import annotations

from pointsman.controller.evidence import EvidenceSource, Past
from pointsman.model.evidence import Evidence, Tally, TallyKey
from pointsman.stats.latency import bucket_of
from pointsman.testing.evidence import FakeEvidence


def test_what_is_counted_is_known_from_the_next_reading_on() -> None:
    """A test counts calls; the controller hears of them with the next reading, and finds earlier ones."""
    fake = FakeEvidence()
    source: EvidenceSource = fake
    heard: list[Evidence] = []
    stop = source.subscribe(heard.append)
    fake.count("greet", "main", latencies=[0.1, 0.2], errors=1)
    assert source.evidence() == Evidence(at=0.0)
    fake.tick()
    fake.count("greet", "main", latencies=[0.1])
    newest = fake.tick()
    key = TallyKey("greet", 1, "main")
    assert heard[-1] is newest is source.evidence()
    assert newest.tallies[key].requests == 3
    assert newest.tallies[key].since(source.earlier(1.0).tallies[key]).latencies == {bucket_of(0.1): 1}
    stop()
    fake.tick()
    assert len(heard) == 2


def test_readings_of_ten_minutes_are_found_by_their_age() -> None:
    """A reading of any age up to ten minutes is right within a tenth, and few are kept."""
    past, key = Past(), TallyKey("greet", 1, "main")
    for second in range(3000):
        past.keep(Evidence(float(second), {key: Tally(requests=second)}))
    assert len(past._readings) < 100
    for age in (0, 1, 5, 10, 60, 300, 600):
        then = past.earlier(age)
        assert then.tallies[key].requests == then.at
        assert age <= 2999 - then.at <= age * 1.15 + 1
    assert 600 <= 2999 - past.earlier(10_000).at < 800


def test_a_young_instance_gives_what_it_has() -> None:
    """Who asks for ten minutes in the first minute gets what was counted since the first reading."""
    past = Past()
    assert past.earlier(600) == Evidence(at=0.0)
    past.keep(Evidence(5.0))
    assert past.earlier(600).at == past.earlier(0).at == 5.0
