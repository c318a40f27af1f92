"""pointsman.load: when requests are due, what is counted, and what an expectation says of it."""

from __future__ import annotations

import io
import itertools
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pointsman.cli.loadview import live_view, report_view
from pointsman.load.expectations import missed, parse_expectation
from pointsman.load.loops import constant, poisson
from pointsman.load.requests import Message, check_method, parse_header, stream_of
from pointsman.load.series import MOST_SLOTS, Series, Slot, plot
from pointsman.load.tally import OPEN, UNSENT, Ended, Latencies, Sample, Tally
from pointsman.load.target import Place, is_here, read_target
from tests.properties import examples

GOOD = {"mode": "open", "sent": 100, "ok": 98, "rate": 50.0, "p50_ms": 5.0, "p90_ms": 8.0, "p95_ms": 9.0}
REPORT: dict[str, Any] = {**GOOD, "p99_ms": 20.0, "max_ms": 40.0}


@given(count=st.integers(1, 300), seconds=st.floats(0.01, 1000), seed=st.integers(0, 2**32))
@examples(30)
def test_as_many_requests_as_were_asked_for(count: int, seconds: float, seed: int) -> None:
    """Both kinds of arrivals are exactly rate times duration, in order, and within the duration (LT1)."""
    for times in (list(constant(count, seconds)), list(poisson(count, seconds, random.Random(seed).random))):
        assert len(times) == count
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= seconds


def test_poisson_arrivals_are_as_irregular_as_those_of_users() -> None:
    """Gaps are exponential: their mean is that of the rate, and their standard deviation is as large (LT1)."""
    times = list(poisson(20_000, 100.0, random.Random(1).random))
    gaps = [after - before for before, after in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(1 / 200, rel=0.02)
    assert deviation == pytest.approx(mean, rel=0.03)


@given(
    values=st.lists(st.floats(2e-6, 80_000), min_size=1, max_size=200),
    quantile=st.sampled_from((0.0, 0.5, 0.9, 0.95, 0.99, 1.0)),
)
@examples(50)
def test_percentiles_are_one_percent_off_at_most(values: list[float], quantile: float) -> None:
    """A percentile is that of the list of all latencies, within 1 %, and never above the longest (LT1)."""
    counted = Latencies()
    for value in values:
        counted.add(value)
    ordered = sorted(values)
    exact = ordered[max(0, -int(-quantile * len(values) * (1 - 1e-12) // 1) - 1)]
    found = counted.quantile_s(quantile)
    assert found is not None
    assert found == pytest.approx(exact, rel=0.0101)
    assert found <= counted.longest_s == ordered[-1]
    assert counted.count == len(values)
    assert len(counted.counts) <= 1300


def test_no_latency_is_no_number() -> None:
    """Without a good answer there is no percentile, rather than a 0 that looks fast (LT1)."""
    report = Tally(OPEN).report()
    assert [report[name] for name in ("p50_ms", "p99_ms", "max_ms", "late_p99_ms")] == [None] * 4
    assert (report["rate"], report["sent"], report["trustworthy"]) == (0.0, 0, True)


def counted(tally: Tally, *ended: Ended, late_s: float = 0.0) -> dict[str, Any]:
    for one in ended:
        tally.began(one.due, one.due + late_s)
        tally.ended(one)
    return tally.report()


def test_what_a_report_says() -> None:
    """JSON has these fields and no others; refusals and errors do not make the percentiles look better (LT1)."""
    ended = [Ended(0, 0.010, 200, "v1"), Ended(1, 1.030, 201, "v2"), Ended(2, 2.0001, 503, "v2"), Ended(3, 4, 302)]
    report = counted(Tally(OPEN), *ended, Ended(5, 8, 0, "timeout"))
    assert report.pop("p90_ms") == pytest.approx(1000, rel=0.01)
    assert report.pop("p50_ms") == pytest.approx(30, rel=0.01)
    for name in ("p95_ms", "p99_ms"):
        assert report.pop(name) == pytest.approx(1000, rel=0.01)
    backends = report.pop("backends")
    assert report == {
        "mode": "open",
        "sent": 5,
        "ok": 3,
        "statuses": {"200": 1, "201": 1, "302": 1, "503": 1},
        "errors": {"timeout": 1},
        "rate": 0.38,
        "max_ms": 1000.0,
        "late_p99_ms": 0.0,
        "trustworthy": True,
    }
    assert {tag: (one["sent"], one["ok"]) for tag, one in backends.items()} == {"v1": (1, 1), "v2": (2, 1)}
    assert backends["v2"]["p99_ms"] == pytest.approx(30, rel=0.01)


def test_a_run_that_was_late_is_not_trusted() -> None:
    """One request in a hundred may be sent 10 ms late; with two, the figures are of this machine (LT2)."""
    tally = Tally(OPEN)
    on_time = [Ended(n, n + 0.001, 200) for n in range(98)]
    counted(tally, *on_time)
    counted(tally, Ended(98, 98.02, 200), late_s=0.011)
    counted(tally, Ended(99, 99.02, 200), late_s=0.009)
    assert tally.trustworthy
    tally.ended(Ended(100, 130, 0, UNSENT))
    assert not tally.trustworthy
    assert tally.report()["late_p99_ms"] == pytest.approx(9, rel=0.02)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p99<50ms", ""),
        ("p99 <= 0.02s", ""),
        ("p50<5000us", "expected p50<5000us, but p50 was 5 ms"),
        ("max<30ms", "expected max<30ms, but max was 40 ms"),
        ("p90>8ms", "expected p90>8ms, but p90 was 8 ms"),
        ("p95>=9ms", ""),
        ("errors<1%", "expected errors<1%, but errors were 2%"),
        ("errors<=2%", ""),
        ("errors<2", "expected errors<2, but errors were 2"),
        ("rate>50.5/s", "expected rate>50.5/s, but the rate was 50/s"),
        ("rate>49", ""),
    ],
)
def test_expectations(text: str, said: str) -> None:
    """Each expectation is met, or a sentence says what was measured instead (LT2)."""
    assert missed(parse_expectation(text), REPORT) == said


def test_nothing_answered_meets_no_latency() -> None:
    """No answer is never within a bound (LT2)."""
    nothing = {**REPORT, "p99_ms": None, "sent": 0, "ok": 0}
    for text in ("p99<50ms", "errors<1%"):
        assert "there was no good answer" in missed(parse_expectation(text), nothing)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("p99", "is no expectation, such as p99<50ms"),
        ("p99=50ms", "is no expectation"),
        ("p99<-5ms", "is no expectation"),
        ("p98<50ms", "expects something of 'p98', which is none of p50, p90"),
        ("p99<50", "needs a unit of time: us, ms or s"),
        ("p99<5%", "needs a unit of time"),
        ("errors<1ms", "errors is not counted in ms"),
        ("rate>5%", "rate is not counted in %"),
    ],
)
def test_what_is_no_expectation(text: str, said: str) -> None:
    """A text that is none is refused, with what would be one (LT2)."""
    with pytest.raises(ValueError, match=re.escape(said)):
        parse_expectation(text)


def sample(p50_ms: float, p99_ms: float, failed: int = 0) -> Sample:
    return Sample(1.0, 0.5, 10, 10 - failed, p50_ms, p99_ms, 10, 10 - failed, False)


def test_the_plot() -> None:
    """A stall stands out: solid up to the median, shaded up to p99, and a mark where requests failed (LT3)."""
    slots = [Slot(1, 2, 0), Slot(4, 8, 0), Slot(0.01, 1, 2), Slot(0, 0, 5)]
    lines, errors, top = plot(slots, columns=4, rows=4)
    assert lines == [" ░  ", " ░  ", "▁█  ".replace("▁", " "), "▄█▁ "]
    assert (errors, top) == ("  !!", 8)
    wide, _, _ = plot(slots, columns=11, rows=4, expected=5)
    assert wide[-1] == "▄▄██▁▁  "
    assert plot([], columns=10, rows=2) == (["", ""], "", 0.0)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_picture_fits_the_terminal(width: int) -> None:
    """Title, figures and plot are not wider than the terminal, and say what happens without colours (LT3)."""
    series = Series()
    samples = [sample(2.0, 9.0, failed=number % 7 == 0) for number in range(500)]
    for one in samples:
        series.add(one)
    console = Console(width=width, record=True, file=io.StringIO())
    late = samples[0]._replace(late=True, at=125.0)
    console.print(live_view(late, series, "GET 127.0.0.1:8000/" + "rank" * 20, 600.0, width))
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= width
    assert shown.splitlines()[0].endswith("Ctrl-C ends it")
    for words in ("2:05 of 10:00", "1 (+1)", "Not trustworthy so far", "! requests failed", "░", "9 ┤"):
        assert words in shown
    tally = Tally(OPEN)
    counted(tally, Ended(0, 1, 200, "v1"), Ended(0, 2, 500, "v2"), Ended(1, 2, 0, "reset"))
    console.print(report_view(tally.report(), 2.0, series, width))
    shown = console.export_text()
    for words in ("3 requests in 2.0 s, open loop", "errors        2 (66.7 %): status 500: 1, reset: 1", "v2"):
        assert words in shown


def test_a_long_run_stays_small() -> None:
    """An hour is drawn from as few figures as a minute, and its worst second is still in it (LT3)."""
    series = Series()
    for number in range(7200):
        series.add(sample(1.0, 99.0 if number == 5000 else 2.0, failed=number == 70))
    slots = series.all()
    assert len(slots) <= MOST_SLOTS
    assert max(slot.p99_ms for slot in slots) == 99.0
    assert sum(slot.failed for slot in slots) == 1


def test_the_bytes_of_a_request() -> None:
    """Method, headers, body and session keys are what was given; host and length are added (LT3)."""
    headers = [parse_header("content-type: application/json"), parse_header("X-Id:7")]
    plain = next(stream_of(Message("POST", headers, b"{}"), "127.0.0.1:8000", "/a?b=c", 0))
    assert plain == (
        b"POST /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:8000\r\ncontent-type: application/json\r\nX-Id: 7\r\n"
        b"User-Agent: pointsman-load\r\nContent-Length: 2\r\n\r\n{}"
    )
    keyed = stream_of(Message("GET", keys=3), "h", "/", seed=1)
    found = {next(keyed).partition(b"x-serve-shard-key: ")[2] for _ in range(60)}
    assert found == {b"key-0\r\n\r\n", b"key-1\r\n\r\n", b"key-2\r\n\r\n"}


@pytest.mark.parametrize(
    "text", ["x", "a b: c", "a: b\r\nc: d", ": c", "content-length: 4", "Connection: close", "a: \u2603"]
)
def test_what_is_no_header(text: str) -> None:
    """A header that is none, or that only the load can set, is refused (LT3)."""
    with pytest.raises(ValueError, match="header"):
        parse_header(text)


def test_methods() -> None:
    """Any method can be asked with but CONNECT (LT3)."""
    assert check_method("patch") == "PATCH"
    for wrong in ("", "GET /", "CONNECT"):
        with pytest.raises(ValueError, match="method"):
            check_method(wrong)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:80",
        "ftp://127.0.0.1/",
        "http:///x",
        "http://me:pw@127.0.0.1/",
        "http://[::1/",
        "http://127.0.0.1:x/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1/a\nb",
        "http://127.0.0.1:65536/",
    ],
)
def test_what_is_no_url(url: str) -> None:
    """A URL that cannot be asked is refused (LT1)."""
    with pytest.raises(ValueError, match="URL"):
        read_target(url)


def test_targets() -> None:
    """Scheme, port, path and query are read from the URL; what cannot stand in a request line is quoted (LT1)."""
    target = read_target("https://127.0.0.1/a b?x=ü&y=%20")
    assert (target.secure, target.host, target.path) == (True, "127.0.0.1", "/a%20b?x=%C3%BC&y=%20")
    assert target.places[0].address == ("127.0.0.1", 443)
    assert read_target("http://127.0.0.1:8000").path == "/"


def test_this_machine() -> None:
    """Loopback and the addresses of this machine are here; others are not (LT3)."""
    import socket

    for here in ("127.0.0.1", "127.8.9.1", "0.0.0.0"):
        assert is_here(Place(socket.AF_INET, (here, 80)))
    assert is_here(Place(socket.AF_INET6, ("::1", 80, 0, 0)))
    assert not is_here(Place(socket.AF_INET, ("192.0.2.1", 80)))  # of documentation, nobody's
    for many in ("255.255.255.255", "224.0.0.1"):
        assert not is_here(Place(socket.AF_INET, (many, 80)))
