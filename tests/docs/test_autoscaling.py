"""Autoscaling, compared: the tables of the page are those of the simulations, which can be made again."""

from __future__ import annotations

import json
import sys

from pointsman.testing.scaling.figures import RULES, SEEDS, figures, late_share, run, simulated, traces
from tests.docs.test_examples import ROOT
from tests.properties import is_long

sys.path.insert(0, str(ROOT / "docs/plots"))
import autoscaling as script

RUNS = json.loads(script.RUNS.read_text())
AGAIN = "after a change of the rule, run docs/plots/autoscaling.py"


def test_the_tables_of_the_page_are_made_of_the_simulations() -> None:
    """A reader finds in the page what the simulations gave, to the last digit (SF1)."""
    assert script.in_page(script.PAGE.read_text()) == {name: f"{text}\n" for name, text in script.tables(RUNS).items()}
    assert "](autoscaling.svg)" in script.PAGE.read_text()


def test_the_rule_is_the_calmest_and_the_quickest_at_once() -> None:
    """A user's calls are late five times less often than with either peer, for fewer replicas than with both, and at
    most twice as many as one needs who knows the calls ahead; and steady traffic never makes the number flap (SF1)."""
    busy = {rule: [one for kind in RUNS["busy"].values() for one in kind[rule]] for rule in RULES}
    late = {rule: late_share(results) for rule, results in busy.items()}
    used = {rule: sum(one["replica_seconds"] for one in results) for rule, results in busy.items()}
    assert late["pointsman"] <= min(0.01, late["ray"] / 5, late["kpa"] / 5)
    assert used["pointsman"] <= 2 * used["oracle"]
    assert used["pointsman"] < min(used["ray"], used["kpa"])
    assert [one["flaps"] for kind in RUNS["steady"].values() for one in kind["pointsman"]] == [0] * 15


def test_the_simulations_can_be_made_again() -> None:
    """Whoever runs the command again gets the numbers of the page; the gate makes one kind of traffic again, and
    ``make test-long`` all (AS18, SF1)."""
    if is_long():
        assert run(range(SEEDS)) == RUNS, AGAIN
    for rule, made in RUNS["busy"][script.DRAWN].items():
        assert figures(simulated(traces()[script.DRAWN], rule)) == made[0], AGAIN
