"""``pointsman autoscale``, and what ``status`` and ``top`` show of numbers that follow the calls."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType
from typer.testing import CliRunner, Result

from pointsman.cli import autoscale as commands
from pointsman.cli.main import app
from pointsman.cli.scalingtables import ScalingTable
from pointsman.cli.top import stats_tables
from tests.unit.test_simulated_scaling import BUSY

DECISIONS = [
    {"time": "2026-11-29T04:00:00.000+00:00", "from": 1, "to": 2, "reason": "demand", "text": "demand 3 at target 2"},
    {"time": "2026-11-29T04:05:00.000+00:00", "from": 2, "to": 5, "reason": "demand", "text": "demand 9.8 at target 2"},
]
SCALING = {
    "wanted": 5,
    "min": 1,
    "max": 40,
    "demand": 9.8,
    "arrivals_per_second": 41.2,
    "start_s": 3.2,
    "remark": "",
    "hold_s": None,
    "blocked": None,
    "decisions": DECISIONS,
}
BLOCKED = {"reason": "room", "text": "2 more CPUs are needed, 0 are free"}


def backend(scaling: dict[str, Any] | None, running: int = 2, wanted: int = 5) -> dict[str, Any]:
    return {"replicas_running": running, "replicas_wanted": wanted, "autoscaling": scaling}


class Client:
    """A client of an instance with these backends."""

    def __init__(self, **backends: dict[str, Any]) -> None:
        self.backends = backends
        self.held: tuple[str, int, float] | None = None

    def status(self) -> dict[str, Any]:
        return {"backends": self.backends}

    def scale(self, backend_tag: str, replicas: int, hold_s: float) -> None:
        self.held = (backend_tag, replicas, hold_s)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    there = Client(m=backend(SCALING), fixed=backend(None))
    monkeypatch.setattr(commands, "connect_to", lambda *_: there)
    return there


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["autoscale", *arguments])


def printed(shown: RenderableType, width: int = 120) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(shown)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_status_says_what_is_wanted_why_and_since_when(client: Client) -> None:
    """An operator reads in one row how many replicas a backend has and wants, and because of what (AS19)."""
    shown = command("status").stdout
    for text in ("m ", "2", "5", "1-40", "9.8", "41.2", " demand 9.8 at target 2", " d"):
        assert text in shown
    assert "fixed" not in shown
    assert json.loads(command("status", "--json").stdout) == {"m": SCALING}


def test_the_status_says_what_is_in_the_way() -> None:
    """An operator sees below the reason that a number is held, that there is no room, and a remark (AS19)."""
    hindered = {**SCALING, "hold_s": 600.0, "blocked": BLOCKED, "remark": "[bold]policy 'x:y' raises"}
    shown = printed(ScalingTable({"m": backend(hindered)}))
    for text in ("held for 10 min more", " 2 more CPUs are needed, 0 are free", "[bold]policy 'x:y' raises"):
        assert text in shown


def test_a_backend_that_is_not_autoscaled_has_no_autoscaling_to_show(client: Client) -> None:
    """Asked for one that does not exist or is not autoscaled, the command fails and says which it is (AS19)."""
    for arguments, text in (
        (("status", "fixed"), "backend 'fixed' is not autoscaled"),
        (("history", "fixed"), "backend 'fixed' is not autoscaled"),
        (("status", "other"), "there is no backend 'other'; there are: fixed, m"),
    ):
        result = command(*arguments)
        assert isinstance(result.exception, ValueError)
        assert text in str(result.exception)


def test_the_history_shows_decisions_newest_first(client: Client) -> None:
    """An operator reads what was decided, the newest first, with time and reason; a script gets the list (AS19)."""
    rows = [line for line in command("history", "m").stdout.splitlines() if "->" in line]
    assert ["2 -> 5" in rows[0], "1 -> 2" in rows[1], len(rows)] == [True, True, 2]
    assert "2026-11-29 04:05:00" in rows[0]
    assert json.loads(command("history", "m", "--json").stdout) == DECISIONS


def test_a_number_can_be_held(client: Client) -> None:
    """An operator fixes a number for ten minutes, or as long as the command says (AS12, AS19)."""
    assert command("hold", "m", "3", "--for", "90s").stdout == "m is held at 3 replicas for 90 s.\n"
    assert client.held == ("m", 3, 90.0)
    assert json.loads(command("hold", "m", "1", "--json").stdout) == SCALING
    assert client.held == ("m", 1, 600.0)
    for wrong in ("soon", "0", "inf"):
        assert command("hold", "m", "1", "--for", wrong).exit_code == 2


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(BUSY))
    return str(path)


def test_rules_are_compared_in_one_table(trace: str) -> None:
    """A user gives a trace and the names of rules, and reads what each would have done with it (AS18, AS19)."""
    shown = command("simulate", trace, "--policy", "ray,kpa,oracle", "--service-s", "0.1,0.5", "--slo-ms", "500").stdout
    rows = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert {"policy", "ray", "kpa", "oracle"} <= rows.keys()
    assert "%" in rows["ray"]


def test_a_script_gets_the_fields_of_each_simulation(trace: str) -> None:
    """A script reads the same fields as from Python, by the rule's name (AS18, AS19)."""
    options = ("--service-s", "0.2", "--start-s", "3", "--config", '{"max_replicas": 9}', "--json")
    found = json.loads(command("simulate", trace, "--policy", "oracle,kpa", *options).stdout)
    assert set(found) == {"oracle", "kpa"}
    fields = {"requests", "lost", "late", "latency_ms", "replica_seconds", "peak", "flaps", "wanted", "decisions"}
    assert fields <= set(found["kpa"])
    assert found["kpa"]["peak"] <= 9
    assert set(found["kpa"]["decisions"][0]) == {"time", "from", "to", "reason", "text"}


def test_one_rule_alone_shows_its_decisions(trace: str) -> None:
    """A user who simulates one rule reads each change with its time and reason (AS18, AS19)."""
    shown = command("simulate", trace, "--policy", "oracle").stdout
    assert " -> " in shown
    assert "the rates ahead are known" in shown


@pytest.mark.parametrize(
    ("content", "options", "text"),
    [
        ("[[0, 5], [9, 0]", (), "is not JSON"),
        ('{"0": 5}', (), "must hold a list"),
        ("[]", (), "a trace must have"),
        ("[3, 2]", (), "must be sorted"),
        ("[1]", ("--policy", "rey"), "must be one of pointsman"),
        ("[1]", ("--config", "{"), "is not JSON"),
        ("[1]", ("--config", '{"max_replica": 3}'), "max_replica"),
        ("[1]", ("--service-s", "quick"), "MEAN,CV"),
        ("[1]", ("--service-s", "0.1,0.5,2"), "MEAN,CV"),
        ("[1]", ("--service-s", "0"), "service_s must be"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(
    tmp_path: Path, content: str, options: tuple[str, ...], text: str
) -> None:
    """Bad usage and a bad file exit with 2, and the line says what was wrong (AS18, AS19)."""
    path = tmp_path / "trace.json"
    path.write_text(content)
    result = command("simulate", str(path), *options)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.replace("│", " ").split())


def test_a_missing_trace_is_named(tmp_path: Path) -> None:
    """A file that is not there exits with 2 and its name (AS19)."""
    result = command("simulate", str(tmp_path / "none.json"))
    assert result.exit_code == 2
    # The box around the message breaks lines anywhere, and how long the folder's name is nobody knows.
    assert "none.json" in "".join(result.stderr.replace("│", " ").split())


@pytest.mark.slow
def test_a_simulation_can_be_drawn(trace: str, tmp_path: Path) -> None:
    """A user gets a picture of calls, replicas and late calls, each rule with its name; the same each time (AS18)."""
    first, again = tmp_path / "first.svg", tmp_path / "again.svg"
    for path in (first, again):
        assert command("simulate", trace, "--policy", "kpa,oracle", "--plot", str(path)).exit_code == 0
    for text in ("calls per second", "replicas wanted", "replicas ready", "late calls", "kpa", "oracle"):
        assert text in first.read_text()
    assert first.read_bytes() == again.read_bytes()


LATENCIES = {"p50": 1.5, "p95": 2.0, "p99": 3.0, "mean": 1.7, "count": 5}
STATS = {
    "endpoints": {},
    "backends": {
        tag: {
            "requests": 0,
            "windows": {"10s": {"per_second": 0.0, "errors": 0, "latency_ms": LATENCIES}},
            "processing": 0,
            "queued": 0,
            "batch_size": None,
            "replicas": live,
        }
        for tag, live in (("m", 2), ("asleep", 0), ("deleted", 0))
    },
}


def test_top_shows_how_many_of_the_wanted_replicas_there_are_and_why() -> None:
    """Beside the numbers of a busy instance stands how many replicas each backend wants, why, and since when (AS19)."""
    asleep = {**SCALING, "wanted": 0, "decisions": []}
    known = {"m": backend(SCALING), "asleep": backend(asleep, running=0, wanted=0)}
    shown = printed(stats_tables(STATS, "title", "10s", known), width=160)
    assert "2/5" in shown
    assert " demand 9.8 at target 2" in shown
    assert "as created" in shown
    assert "deleted" not in shown


def test_a_narrow_terminal_has_room_for_the_reason() -> None:
    """On 80 columns the reason stands in one line, and the numbers that explain it are whole (AS19)."""
    shown = printed(ScalingTable({"m": backend(SCALING)}), width=80)
    assert "demand 9.8 at target 2" in shown
    assert "1-40" not in shown


def test_a_policy_in_the_present_folder_is_simulated(
    trace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user has a policy in a file beside the trace, and simulates it where the two are (AS13, AS18)."""
    (tmp_path / "own_rule_here.py").write_text("def three(ctx):\n    return 3\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    shown = command("simulate", trace, "--policy", "own_rule_here:three")
    assert shown.exit_code == 0, shown.output
    assert "the policy says 3" in shown.stdout
