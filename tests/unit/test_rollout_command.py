"""``pointsman rollout`` and the client's rollouts, against a controller that plays views by script."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from pointsman.cli import rollout as commands
from pointsman.cli.cells import clock
from pointsman.cli.evidence import RolloutPicture, bar, gate_name, line, number
from pointsman.cli.main import app
from pointsman.cli.tables import show_status
from pointsman.client.operations import Operations, status_view
from pointsman.client.rollouts import RolloutOperations, rollout_view
from pointsman.model.rollout import GateView, RolloutPlan, RolloutView
from pointsman.wire.commands import Accepted, AnyCommand, Await, Query, Status
from pointsman.wire.messages import pack
from pointsman.wire.rollouts import AwaitRollout, ControlRollout, QueryRollout, StartRollout

GATES = {
    "error_rate": GateView(0.022, 0.009, "rate", 12.3, 60, False),
    "latency.p99": GateView(0.41, 0.205, "seconds", 0.4, 60, False),
    "health": GateView(None, None, "", 1, 60, False),
}
BEGAN = RolloutView(
    7,
    RolloutPlan("greet", "new"),
    "running",
    1,
    0.05,
    192.4,
    {"baseline": 7812, "canary": 412},
    612,
    GATES,
    waits_for="108 s",
)
BACK = "rolled back at 5 % after 412 requests: error_rate 2.2 % against 0.9 % (e 63 >= 60)"
ROLLED_BACK = msgspec.structs.replace(
    BEGAN,
    state="rolled_back",
    weight=0.0,
    gates={**GATES, "error_rate": GateView(0.022, 0.009, "rate", 63, 60, True)},
    reason=BACK,
    ended="2026-11-29T04:00:00.000+00:00",
)


class Played(RolloutOperations):
    """A client whose controller answers with these views, one after the other; the last one stays."""

    def __init__(self, *views: RolloutView) -> None:
        self._views = list(views)
        self.sent: list[AnyCommand] = []
        self._session: Any = self

    def _check_alive(self) -> None:
        pass

    def command(self, command: AnyCommand, blob: bytes = b"", **_: Any) -> bytes:
        self.sent.append(command)
        if isinstance(command, (QueryRollout, AwaitRollout)):
            return pack(self._views.pop(0) if len(self._views) > 1 else self._views[0])
        if isinstance(command, Query):
            return pack(Status(1, 5, "", None, 0, {}, {}, (), rollouts={"greet": self._views[0]}))
        return b"" if isinstance(command, Await) else pack(Accepted(1))

    def status(self) -> dict[str, Any]:
        return status_view(Operations._status(self), None)


def run(monkeypatch: pytest.MonkeyPatch, client: Played, *arguments: str) -> Result:
    monkeypatch.setattr(commands, "connect_to", lambda name, address: client)
    monkeypatch.setattr(commands, "EVERY_S", 0.0)
    return CliRunner().invoke(app, ["rollout", *arguments])


def test_a_rollout_is_started_with_what_was_given(monkeypatch):
    """Each option reaches the controller, and the first picture is printed (RO1)."""
    client = Played(BEGAN)
    result = run(
        monkeypatch,
        client,
        *("start", "greet", "new", "--steps", "5%, 0.5,1", "--hold", "2m", "--min-samples", "30", "--gate", "health"),
        *("--gate", 'latency={"p99": 1.1}', "--alpha", "0.01", "--patience", "3", "--on-inconclusive", "rollback"),
    )
    assert result.exit_code == 0, result.output
    gates = {"health": {}, "latency": {"p99": 1.1}}
    plan = RolloutPlan("greet", "new", (0.05, 0.5, 1.0), 120, 30, gates, 0.01, 3, "rollback")
    assert [command.plan for command in client.sent if isinstance(command, StartRollout)] == [plan]
    assert "Rollout 7: greet to new  running" in result.output


def test_a_rollout_without_options_has_the_defaults():
    """What is left out is as documented; no gate is the three by default (RO1, RO4)."""
    client = Played(BEGAN)
    assert client.start_rollout("greet", "new")["id"] == 7
    assert client.sent[0].plan == RolloutPlan("greet", "new", (0.01, 0.05, 0.25, 0.5, 1.0), 300, 100, {}, 0.05, 10)
    assert client.sent[0].by


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (TypeError, {"steps": 0.5}),
        (TypeError, {"steps": ["5%"]}),
        (ValueError, {"steps": [math.nan]}),
        (ValueError, {"hold_s": math.inf}),
        (TypeError, {"hold_s": "5m"}),
        (ValueError, {"min_samples": -1}),
        (ValueError, {"min_samples": 1.5}),
        (TypeError, {"gates": ["health"]}),
        (TypeError, {"gates": {"latency": 1.05}}),
        (ValueError, {"gates": {}}),
        (TypeError, {"gates": {"latency": {"p99": object()}}}),
        (TypeError, {"on_inconclusive": None}),
        (ValueError, {"alpha": math.nan}),
    ],
)
def test_bad_values_are_refused_before_anything_is_sent(error, options):
    """A wrong type or a number that is none raises in the caller, and nothing has changed (RO2)."""
    client = Played(BEGAN)
    with pytest.raises(error):
        client.start_rollout("greet", "new", **options)
    assert client.sent == []


def test_verbs_reach_the_controller(monkeypatch):
    """Pause, resume, promote and abort are what they say, and show the rollout afterwards (RO1)."""
    for verb in ("pause", "resume", "promote", "abort"):
        client = Played(BEGAN)
        result = run(monkeypatch, client, verb, "greet", "--json")
        assert json.loads(result.output)["id"] == 7
        assert [c.verb for c in client.sent if isinstance(c, ControlRollout)] == [verb]


@pytest.mark.parametrize(
    ("state", "code"), [("promoted", 0), ("rolled_back", 5), ("aborted", 5), ("superseded", 4), ("inconclusive", 3)]
)
def test_a_script_learns_from_the_exit_code_how_it_ended(monkeypatch, state, code):
    """``wait`` exits with 0 only for a version that has all its traffic (RO1)."""
    result = run(monkeypatch, Played(msgspec.structs.replace(ROLLED_BACK, state=state)), "wait", "greet")
    assert result.exit_code == code
    assert state.replace("_", " ") in result.output


def test_the_time_limit_of_a_wait_is_sent(monkeypatch):
    """``--timeout 2m`` are 120 seconds; what is no time is bad usage."""
    client = Played(ROLLED_BACK)
    run(monkeypatch, client, "wait", "greet", "--timeout", "2m")
    assert client.sent[0].timeout_s == 120
    assert run(monkeypatch, client, "wait", "greet", "--timeout", "soon").exit_code == 2


def test_watching_into_a_file_prints_a_line_for_each_step(monkeypatch):
    """Logs of a CI have one line for the beginning, each step and the end, and no second one for the same (RO9)."""
    later = msgspec.structs.replace(BEGAN, step=2, weight=0.25, held_s=0.0, samples={"baseline": 0, "canary": 0})
    result = run(monkeypatch, Played(BEGAN, BEGAN, later, later, ROLLED_BACK), "watch", "greet")
    assert result.output.splitlines() == [
        "rollout 7: running, step 2 of 5, 5 % to new, held 3:12 of 5:00, 412 of 100 requests, error_rate e 12 of 60",
        "rollout 7: running, step 3 of 5, 25 % to new, held 0:00 of 5:00, 0 of 100 requests, error_rate e 12 of 60",
        f"rollout 7: {BACK}",
    ]
    assert result.exit_code == 5


def test_ctrl_c_leaves_the_rollout_running(monkeypatch):
    """Who stops watching is told how to watch again, and has sent nothing to the rollout. The exit code is not that of
    a promoted one."""

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.time, "sleep", interrupted)
    client = Played(BEGAN)
    result = run(monkeypatch, client, "watch", "greet")
    assert "The rollout goes on. Watch it again with: pointsman rollout watch greet" in result.output
    assert result.exit_code == 130
    assert {type(command) for command in client.sent} == {QueryRollout}


def picture(view: RolloutView, width: int = 80) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(RolloutPicture(rollout_view(view)))
    return [row.rstrip() for row in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_the_picture_shows_steps_bars_and_gates():
    """At 80 columns all of it is legible: steps, time, samples, and how near each gate is to its limit (RO9)."""
    rows = picture(BEGAN)
    assert rows[:7] == [
        "Rollout 7: greet to new  running",
        "● 1 %  ─  ◉ 5 %  ─  ○ 25 %  ─  ○ 50 %  ─  ○ 100 %",
        "",
        "weight   █░░░░░░░░░░░░░░░  5 %  (step 2 of 5, 612 requests in all steps)",
        "held     ██████████░░░░░░  3:12 of 5:00",
        "samples  ████████████████  412 of 100 requests, baseline 7,812",
        "The step waits for 108 s.",
    ]
    gates = [" ".join(row.split()) for row in rows]
    assert "gate canary baseline evidence" in gates
    assert "error_rate 2.2 % 0.9 % █████████░░░░░░░ e 12 of 60" in gates
    assert "latency p99 410 ms 205 ms ░░░░░░░░░░░░░░░░ e 0.4 of 60" in gates
    assert "health - - none" in gates
    assert max(map(len, rows)) <= 80


def test_a_narrow_terminal_gets_short_bars():
    """At 60 columns names and numbers stay whole; bars give way."""
    gates = [" ".join(row.split()) for row in picture(BEGAN, width=60)]
    assert "error_rate 2.2 % 0.9 % ████░░░░ e 12 of 60" in gates


def test_a_paused_rollout_waits_for_somebody():
    """While it is paused no step waits for time or requests, and the picture says what goes on with it."""
    rows = picture(msgspec.structs.replace(BEGAN, state="paused", reason="paused at 5 % after 612 requests"))
    assert "To go on: pointsman rollout resume greet" in rows
    assert not any(row.startswith("The step waits") for row in rows)


def test_each_percentile_is_named():
    """A gate on latency says which percentile it shows, whether there is one or several."""
    plan = {"gates": {"latency": {"burst_s": 10.0, "p95": 1.1}}}
    named = [gate_name(name, plan) for name in ("latency", "latency.p99.9", "metrics.a.b", "error_rate")]
    assert named == ["latency p95", "latency p99.9", "metrics.a.b", "error_rate"]


def test_the_picture_of_what_went_back_says_why():
    """The gate that tripped is full, and the reason and how many were exposed stand below (RO7, RO9)."""
    rows = picture(ROLLED_BACK, width=120)
    assert any(row.endswith(f"0.9 %   {'█' * 30}   e 63 >= 60") for row in rows)
    assert rows[-2:] == [BACK, "new answered 612 requests in all steps."]
    assert not any(row.startswith("held") for row in rows)


def test_hostile_names_move_no_cursor():
    """Names and reasons are text from outside: control characters are not printed."""
    plan = RolloutPlan("gr\x1b[2Jeet", "n\x07ew")
    view = msgspec.structs.replace(ROLLED_BACK, plan=plan, reason="bad\x1b]0;x", gates={"\x1b[1m": GATES["health"]})
    assert not set("\x1b\x07") & set("".join(picture(view)) + line(rollout_view(view)))


def test_the_status_shows_rollouts(monkeypatch):
    """``pointsman status`` and ``pointsman rollout status`` have one row for each endpoint's newest rollout (RO9)."""
    console = Console(width=120, file=io.StringIO())
    show_status(Played(ROLLED_BACK).status(), console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "7: greet to new" in shown
    assert "rolled back at 5 %" in shown
    assert "7: greet to new" in run(monkeypatch, Played(BEGAN), "status").output
    assert json.loads(run(monkeypatch, Played(BEGAN), "status", "--json").output)["greet"]["step"] == 1
    assert json.loads(run(monkeypatch, Played(BEGAN), "status", "greet", "--json").output)["step"] == 1


def test_bars_and_numbers():
    """A little is not nothing, full is full, and numbers stay short."""
    assert [bar(full, 4).plain for full in (-1, 0, 0.01, 0.5, 0.99, 1, 9)] == [
        *("░░░░", "░░░░", "█░░░", "██░░", "███░", "████", "████")
    ]
    assert [number(value) for value in (0.4, 12.3, 63, 4100, 1e9)] == ["0.4", "12", "63", "4,100", "1e09"]
    assert [clock(seconds) for seconds in (0, 59.9, 245, 3600)] == ["0:00", "0:59", "4:05", "1:00:00"]
