"""The page "Is the new model worse?": its plots, tables and figures are those of the runs, and the runs can be made
again."""

from __future__ import annotations

import json
import sys
from math import comb
from pathlib import Path

import pytest

from tests.properties import tries

DOCS = Path(__file__).resolve().parents[2] / "docs"
sys.path.insert(0, str(DOCS / "plots"))

import draw  # noqa: E402
import simulate  # noqa: E402

PAGE = (DOCS / "is-it-worse.md").read_text()
WORDS = " ".join(PAGE.split())
RUNS = simulate.load()


@pytest.mark.parametrize("name", simulate.SIMULATIONS)
def test_the_runs_can_be_made_again(name: str) -> None:
    """Whoever makes the simulations again gets exactly the runs that the page is made of."""
    count, simulation = simulate.SIMULATIONS[name]
    assert len(RUNS[name]) == count
    for run in range(tries(1, count)):
        assert json.loads(json.dumps(simulation(run))) == RUNS[name][run], f"run {run}"


def test_plots_are_drawn_from_the_runs() -> None:
    """The plots of the page are what the script draws, and the page shows all of them."""
    plots = draw.plots(RUNS)
    assert sorted(plots) == sorted(path.name for path in (DOCS / "plots").glob("*.svg"))
    for name, svg in plots.items():
        assert (DOCS / "plots" / name).read_text() == svg, f"{name}: run docs/plots/draw.py"
        assert f"](plots/{name})" in PAGE


@pytest.mark.parametrize("name", ["cost", "buckets", "differs", "intervals"])
def test_tables_are_those_of_the_runs(name: str) -> None:
    """The tables of the page are what the script prints."""
    assert f"<!-- {name} -->\n\n{draw.tables(RUNS)[name]}\n\n" in PAGE


def test_figures_of_the_text_are_those_of_the_runs() -> None:
    """What the page says in words is what the runs gave."""
    for sentence in draw.sentences(RUNS):
        assert sentence in WORDS, sentence


def test_chance_alone_gives_three_errors_now_and_then() -> None:
    """How often a version with 1 % errors has two or three in its first hundred requests, as the page says."""
    exactly = [comb(100, k) * 0.01**k * 0.99 ** (100 - k) for k in range(3)]
    assert f"hundred in {1 - sum(exactly):.1%}".replace("%", " %") in WORDS
    assert f"2 or more in {1 - sum(exactly[:2]):.1%}".replace("%", " %") in WORDS


def test_figures_of_whole_rollouts_are_those_of_the_decision() -> None:
    """The page has the figures that the decision on rollouts has, which a simulation with fixed seeds measures."""
    decision = (DOCS / "decisions" / "0078-what-a-version-is-held-against.md").read_text()
    table = decision.partition("## Figures")[2].partition("\n| ")[2].partition("\n\n")[0]
    assert len(table.splitlines()) == 9
    assert f"\n| {table}\n\n" in PAGE
