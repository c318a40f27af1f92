"""``pointsman shadow``: what came of comparing answers, in the terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from pointsman.cli import shadow as command
from pointsman.cli import traffic
from pointsman.cli.main import app
from pointsman.client.shadows import counts_of
from pointsman.comparing.report import make_report, noise_gate
from pointsman.model.comparison import Json
from pointsman.stats.rates import RateGate
from pointsman.wire.shadows import PairCount


def counted(*counts: tuple[bool, str, str, str, int]) -> tuple[PairCount, ...]:
    return tuple(PairCount(*one) for one in counts)


COUNTS = counted(
    (False, "GET /e", "matched", "", 90),
    (False, "GET /e", "mismatched", "value", 8),
    (False, "GET /f", "mismatched", "error", 2),
    (False, "", "uncompared", "too_large", 3),
    (False, "", "uncompared", "dropped", 4),
    (False, "", "ratio", "36", 98),
    (True, "GET /e", "matched", "", 99),
    (True, "GET /e", "mismatched", "value", 1),
    (True, "", "uncompared", "too_large", 5),
)


def report(counts: tuple[PairCount, ...] = COUNTS, gate: RateGate | None = None) -> dict[str, Any]:
    return make_report(counts_of(counts), since="2026-11-29T03:04:05.678+00:00", gate=gate)


EXAMPLE = {
    "request_id": "a7",
    "route": "GET /e",
    "kind": "value",
    "where": "$.label",
    "score": 0.5,
    "primary": {"status": 200, "body": {"label": "cat"}},
    "shadow": {"status": 200, "body": {"label": "\x1b[2Jdog"}},
}


class Client:
    def __init__(self) -> None:
        self.asked: list[Any] = []

    def shadow_report(self, *which: str) -> dict[str, Any]:
        self.asked.append(which)
        return report(gate=noise_gate())

    def shadow_examples(self, *which: Any) -> list[dict[str, Any]]:
        self.asked.append(which)
        return [EXAMPLE]

    def shadow_traffic(self, *arguments: Any, **options: Any) -> None:
        self.asked.append((arguments, options))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client()
    for module in (command, traffic):
        monkeypatch.setattr(module, "connect_to", lambda *arguments: client)
    monkeypatch.setattr(traffic, "_show", lambda *arguments: None)
    return client


def run(*words: str) -> str:
    result = CliRunner().invoke(app, [*words], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    return result.output


def test_counts_become_a_report() -> None:
    """What all HTTP servers have counted is one report (SC6)."""
    found = report(gate=noise_gate())
    assert (found["pairs"], found["matched"], found["mismatched"], found["dropped"]) == (100, 90, 10, 4)
    assert found["by_kind"] == {"value": 8, "error": 2}
    assert found["by_route"] == {"GET /e": {"pairs": 98, "mismatched": 8}, "GET /f": {"pairs": 2, "mismatched": 2}}
    assert found["uncompared"] == {"too_large": 3}
    assert found["noise"] == {"pairs": 100, "mismatched": 1, "rate": 0.01}
    assert found["latency"]["pairs"] == 98
    assert 1.95 < found["latency"]["median_ratio"]["value"] < 2.05


def test_the_report_in_the_terminal(client: Client) -> None:
    """I read how often answers differ, in what, where, and how sure that is (SC6)."""
    output = run("shadow", "report", "e", "canary")
    assert client.asked == [("e", "canary")]
    for text in ("since 2026-11-29 03:04:05 UTC", "10.00 %", "on GET /f", "1 of 100", "too_large", "x 2.0"):
        assert text in output
    assert "10 % of the answers do not match: not surely more than noise." in output
    assert json.loads(run("shadow", "report", "e", "canary", "--json"))["mismatched"] == 10


def test_examples_in_the_terminal(client: Client) -> None:
    """I see both answers beside each other; what is in them does not move my cursor (SC7)."""
    output = run("shadow", "examples", "e", "canary", "--limit", "3")
    assert client.asked == [("e", "canary", 3)]
    assert "a7, GET /e: value at $.label, score 0.50" in output
    assert "cat" in output
    assert "\x1b[2J" not in output


@pytest.mark.parametrize(
    ("counts", "sure", "expected"),
    [
        ((), False, "Nothing was compared yet."),
        (counted((False, "GET /e", "matched", "", 1000)), False, "All 1,000 answers match; at most"),
        (COUNTS[1:3], False, "100 % of the answers do not match"),
        (COUNTS, False, "10 % of the answers do not match: not surely more than noise."),
        (COUNTS, True, "10 % of the answers do not match: more than noise, sure."),
    ],
)
def test_the_verdict_is_one_sentence(counts: Any, sure: bool, expected: str) -> None:
    """One sentence says what a report comes to (SC6)."""
    gate = noise_gate()
    if sure:
        for _ in range(20):
            gate.add(100, 1, 100, 10)
    assert command.verdict(report(counts, gate)).startswith(expected)


def test_comparing_begins_in_the_terminal(client: Client) -> None:
    """I have a shadow compared by one command (SC1)."""
    run("traffic", "shadow", "e", "canary", "10%", "--compare", "json", "--ignore", "$.a", "--redact", "$.b")
    run("traffic", "shadow", "e", "canary", "10%", "--compare", "exact")
    run("traffic", "shadow", "e", "canary", "0.2")
    where = ("e", "canary")
    assert client.asked == [
        ((*where, 0.1), {"compare": Json(ignore=("$.a",)), "redact": ["$.b"]}),
        ((*where, 0.1), {"compare": "exact", "redact": []}),
        ((*where, 0.2), {"compare": None, "redact": []}),
    ]
    refused = CliRunner().invoke(app, ["traffic", "shadow", "e", "canary", "0.2", "--ignore", "$.a"])
    assert refused.exit_code == 2
