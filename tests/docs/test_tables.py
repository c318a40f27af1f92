"""The tables of the documentation are what the code has, and computes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pointsman.model import TrafficPolicy
from pointsman.policy.traffic import TrafficSplit
from pointsman.telemetry.families import ALL_FAMILIES, RAY_SERVE_1X_FAMILIES

DOCS = Path(__file__).resolve().parents[2] / "docs"
HASH = DOCS / "traffic/hash.md"
KEYS = [f"user-{number}" for number in range(20_000)]


def table(mark: str) -> list[list[str]]:
    """The rows of the table that follows a comment, less its head; cells without their backquotes."""
    lines = HASH.read_text().partition(f"<!-- {mark} -->\n\n")[2].split("\n\n")[0].splitlines()
    return [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def split(endpoint: str, weights: dict[str, float]) -> TrafficSplit:
    return TrafficSplit(endpoint, TrafficPolicy(1, weights))


def homes(weights: dict[str, float]) -> list[str]:
    by_key = split("model", weights).by_key
    return [by_key(key) for key in KEYS]


def test_golden_values() -> None:
    """Whoever checks an implementation of their own against the page finds every digit (SA6)."""
    rows = table("golden")
    assert len(rows) == 9
    for endpoint, weights, key, numbers, backend in rows:
        there = split(endpoint, json.loads(weights))
        assert there.numbers(json.loads(key)) == json.loads(numbers), key
        assert there.by_key(json.loads(key)) == backend, key


def test_movement() -> None:
    """An operator reads off the page how many users a change of weights moves (SA7)."""
    rows = table("movement")
    assert len(rows) == 4
    for before, after, moved, difference, most in rows:
        old, new = json.loads(before), json.loads(after)
        pairs = list(zip(homes(old), homes(new), strict=True))
        changed = sum(one != other for one, other in pairs) / len(pairs)
        d = sum(abs(old.get(tag, 0) - new.get(tag, 0)) for tag in old | new) / 2
        assert [moved, difference, most] == [percent(changed), percent(d), percent(2 * d / (1 + d))]


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def test_every_metric_is_on_the_page_and_on_the_dashboard() -> None:
    """What the port shows can be looked up, with its type and labels, and seen in Grafana without writing a query."""
    described = re.findall(r"^\| `(serve_\w+)` \| (\w+) \| ([\w, ]+) \|", (DOCS / "monitoring.md").read_text(), re.M)
    kinds = {family: "gauge" if family.kind == "largest" else family.kind for family in ALL_FAMILIES}
    assert sorted(described) == sorted((family.name, kind, ", ".join(family.labels)) for family, kind in kinds.items())
    assert [name for name, _, _ in described[:9]] == [family.name for family in RAY_SERVE_1X_FAMILIES]
    panels = json.loads((DOCS / "monitoring/dashboard.json").read_text())["panels"]
    asked = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    assert [family.name for family in ALL_FAMILIES if family.name not in asked] == []
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len({panel["id"] for panel in panels}) == len(panels), "panels lie on each other"
