"""``client.compare_traffic`` and ``pointsman traffic compare``, against a controller that has counted by script."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from pointsman.cli import traffic as commands
from pointsman.cli.evidence import comparison_table, duration
from pointsman.cli.main import app
from pointsman.cli.options import parse_seconds
from pointsman.client.rollouts import RolloutOperations, pieces_of
from pointsman.model.evidence import PINNED, SHADOW, Numbers, Tally, TallyKey, Window
from pointsman.policy.verdict import Piece
from pointsman.wire.commands import AnyCommand, BackendView, Query, Status
from pointsman.wire.messages import pack
from pointsman.wire.rollouts import QueryTallies
from tests.unit.reconciling import backend

MAIN, NEW = TallyKey("greet", 0, "main"), TallyKey("greet", 0, "new")


def tally(requests: int, errors: int = 0, bucket: int = -80) -> Tally:
    return Tally(requests, errors, {bucket: requests} if requests else {}, requests * 1.02**bucket)


class Counted(RolloutOperations):
    """A client of an instance that has counted so much in each second, for so long."""

    def __init__(self, main: Tally, new: Tally, seconds: float = 600.0) -> None:
        self._arms, self._seconds = {MAIN: main, NEW: new}, seconds
        self.sent: list[AnyCommand] = []
        self._session: Any = self

    def _check_alive(self) -> None:
        pass

    def command(self, command: AnyCommand, **_: Any) -> bytes:
        self.sent.append(command)
        if isinstance(command, Query):
            views = {tag: BackendView(backend(tag=tag), "RUNNING", 1, None, ()) for tag in ("main", "new", "other")}
            return pack(Status(1, 5, "", None, 0, {}, views, ()))
        assert isinstance(command, QueryTallies)
        return pack(Numbers(tuple(self.window(asked or 0.0) for asked in command.over_s), {}, {}))

    def window(self, over_s: float) -> Window:
        seconds = int(min(over_s, self._seconds))
        tallies = {key: times(tally, seconds) for key, tally in self._arms.items()}
        others = {NEW._replace(kind=PINNED): tally(9, 9), NEW._replace(kind=SHADOW): tally(9, 9)}
        return Window(float(seconds), {**tallies, **others})


def times(tally: Tally, factor: int) -> Tally:
    latencies = {bucket: count * factor for bucket, count in tally.latencies.items()}
    return Tally(tally.requests * factor, tally.errors * factor, latencies, tally.seconds * factor)


SLOW = Counted(tally(95), tally(5, bucket=-46))
ALIKE = Counted(tally(95), tally(5))


def run(monkeypatch: pytest.MonkeyPatch, client: Counted, *options: str) -> Result:
    monkeypatch.setattr(commands, "connect_to", lambda name, address: client)
    return CliRunner().invoke(app, ["traffic", "compare", "greet", "main", "new", *options])


def test_the_client_compares_what_was_counted():
    """A program gets requests, rates, latencies, differences and a sentence; copies and pinned requests are not in."""
    found = ALIKE.compare_traffic("greet", "main", "new", over_s=300)
    assert (found["endpoint"], found["over_s"], found["seconds"]) == ("greet", 300, 300)
    assert (found["baseline"]["requests"], found["canary"]["requests"]) == (28_500, 1500)
    assert found["canary"]["errors"] == 0
    assert found["canary"]["latency_ms"]["p50"] == pytest.approx(1000 * 1.02**-80.5)
    assert not found["harm"]
    json.dumps(found, allow_nan=False)


def test_the_time_is_asked_for_in_pieces():
    """Twenty pieces show whether failures come in bursts."""
    client = Counted(tally(95), tally(5))
    client.compare_traffic("greet", "main", "new", over_s=600)
    asked = next(command for command in client.sent if isinstance(command, QueryTallies))
    assert asked.over_s == tuple(float(30 * part) for part in range(20, 0, -1))
    assert (asked.endpoint, asked.both) == ("greet", ("main", "new"))


def test_windows_become_pieces_of_time():
    """Pieces add up to the longest window, the oldest first, and two windows that begin alike are one piece."""
    windows = [Window(30.0, {MAIN: tally(7, 1)}), Window(10.0, {MAIN: tally(4, 1), NEW: tally(2)}), Window(10.0, {})]
    assert pieces_of(windows[:2], MAIN, NEW) == [
        Piece(Tally(3, 0, {-80: 3}, tally(7).seconds - tally(4).seconds), Tally(), 20.0),
        Piece(tally(4, 1), tally(2), 10.0),
    ]
    assert [piece.seconds for piece in pieces_of(windows, MAIN, NEW)] == [20.0, 10.0]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("greet", "main", "main"), ValueError, "both 'main'"),
        (("greet", "main", "knew"), ValueError, "'knew' does not exist; there are ['main', 'new', 'other']"),
        (("greet", "main", 7), TypeError, "canary"),
        (("greet", "main", "new", 601), ValueError, "at most 600"),
        (("greet", "main", "new", 0), ValueError, "over_s"),
        (("greet", "main", "new", None), ValueError, "over_s"),
        (("greet", "main", "new", math.nan), ValueError, "over_s"),
        (("greet", "main", "new", "10m"), TypeError, "over_s"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(arguments, error, words):
    """A wrong name, time or type says what would be right."""
    with pytest.raises(error) as raised:
        ALIKE.compare_traffic(*arguments)
    assert words in str(raised.value)


def test_a_script_learns_of_harm_by_the_exit_code(monkeypatch):
    """Exit code 3 is harm, 0 is none seen, and 1 is that there is nothing to compare."""
    assert run(monkeypatch, ALIKE).exit_code == 0
    slow = run(monkeypatch, SLOW)
    assert slow.exit_code == 3
    assert "new is slower: p50 +96 %, p95 +96 %, p99 +96 %, sure; errors: no difference seen, at most" in slow.output
    silent = run(monkeypatch, Counted(tally(95), Tally()))
    assert silent.exit_code == 1
    assert "new answered no requests, so that there is nothing to compare" in silent.output


def test_the_json_is_what_the_client_returns(monkeypatch):
    """``--json`` prints the client's dict and nothing else, with the same exit code."""
    result = run(monkeypatch, SLOW, "--json", "--over", "5m")
    assert json.loads(result.output) == SLOW.compare_traffic("greet", "main", "new", 300)
    assert result.exit_code == 3


@pytest.mark.parametrize("over", ["1h", "0", "-5s"])
def test_a_time_that_is_not_kept_is_a_wrong_option(monkeypatch, over):
    """Counts of ten minutes are kept; the message says so in the words of the command."""
    result = run(monkeypatch, ALIKE, f"--over={over}")
    assert result.exit_code == 2
    assert "at most 10m" in " ".join(result.output.split())


def test_the_table_fits_a_terminal_of_80_columns():
    """No number is cut in two at 80 columns, though names are long."""
    found = SLOW.compare_traffic("greet", "main", "new")
    found["baseline"]["backend"], found["canary"]["backend"] = "greeting-main-2026", "greeting-canary-2026"
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(comparison_table(found))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    rows = [" ".join(row.split()) for row in shown.splitlines()]
    assert "requests 57,000 3,000" in rows
    assert "p50 ms 203 398 +96 % +92 to +100 worse" in rows
    assert any(row.startswith("errors 0 % 0 % 0 points -0.011 to +0.21 none seen") for row in rows)
    assert rows[0] == "greet, the last 10 min"


def test_a_canary_that_is_younger_than_the_time_asked_for_is_compared_from_its_beginning():
    """The title says for how long both have answered."""
    found = Counted(tally(95), tally(5), seconds=90).compare_traffic("greet", "main", "new")
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(comparison_table(found))
    assert "greet, 1.5 min of the last 10 min, in which both answered" in console.file.getvalue()  # type: ignore


def test_durations():
    """Times are written as people write them, and shown alike."""
    given = ("90", "90s", "1.5m", "10min", "2h", "1d")
    assert [parse_seconds(text, "--over") for text in given] == [90, 90, 90, 600, 7200, 86400]
    for wrong in ("soon", "10 parsecs", "", "m"):
        with pytest.raises(Exception, match="is not a duration such as 90s, 10m or 2h"):
            parse_seconds(wrong, "--over")
    assert [duration(seconds) for seconds in (4.2, 27.7, 90, 600)] == ["4.2 s", "28 s", "1.5 min", "10 min"]
