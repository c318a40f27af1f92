"""The simulations, tables and plot of the page "Autoscaling", with fixed seeds.

    python docs/plots/autoscaling.py    # writes autoscaling.json beside this file, the plot, and the page's tables

The tables are made of the numbers in autoscaling.json. A test makes a few of the simulations again and finds the same,
and that the page has these tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from pointsman.testing.scaling.figures import (
    RULES,
    SEEDS,
    Runs,
    run,
    simulated,
    steady_table,
    table,
    traces,
    tuned_table,
)
from pointsman.testing.scaling.plot import plot_autoscaling

HERE = Path(__file__).parent
RUNS = HERE / "autoscaling.json"
PAGE = HERE.parent / "autoscaling-compared.md"
PLOT = HERE.parent / "autoscaling.svg"
DRAWN = "60/s for 30 of 300 s, else 8"


def tables(runs: Runs) -> dict[str, str]:
    """The tables of the page by their names, which stand in comments above them."""
    return {"busy traffic": table(runs), "steady traffic": steady_table(runs), "tuned peers": tuned_table(runs)}


def in_page(page: str) -> dict[str, str]:
    """The tables that a page has, by name."""
    return dict(re.findall(r"<!-- table: (.+) -->\n\n((?:\|.*\n?)+)", page))


def written(page: str, tables: Mapping[str, str]) -> str:
    """The page with these tables in place of its own."""
    for name, text in tables.items():
        marker = f"<!-- table: {name} -->\n\n"
        before, after = page.split(marker)
        page = before + marker + text + "\n\n" + re.sub(r"\A(?:\|.*\n)*", "", after).lstrip("\n")
    return page


if __name__ == "__main__":
    runs = run(range(SEEDS))
    RUNS.write_text(json.dumps(runs, indent=1) + "\n")
    PAGE.write_text(written(PAGE.read_text(), tables(runs)))
    plot_autoscaling({rule: simulated(traces()[DRAWN], rule) for rule in RULES}, PLOT)
    print("\n\n".join(tables(runs).values()))
