"""docs/load.md, from its first line to its last."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import go_through
from tests.docs.test_examples import ROOT

NEVER_LATE = "import pointsman.load.tally\n\npointsman.load.tally.LATE_S = 1e9\n"
"""The machine of a test may be too busy to send in time, and that ends a load with 4."""


def test_whoever_measures_a_model_sees_what_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is served, and loaded in both loops; what is printed has the form that the page shows (LT1, LT2)."""
    early = tmp_path / "early"
    early.mkdir()
    (early / "sitecustomize.py").write_text(NEVER_LATE)
    monkeypatch.setenv("PYTHONPATH", str(early))
    go_through(ROOT / "docs/load.md", tmp_path)
