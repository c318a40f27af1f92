"""docs/trouble.md, from its first line to its last."""

from __future__ import annotations

from pathlib import Path

from tests.docs.pages import go_through
from tests.docs.test_examples import ROOT


def test_whoever_is_in_trouble_sees_what_the_page_shows(tmp_path: Path) -> None:
    """A deploy fails, its logs say why, and the bundle has what the page says (LT4)."""
    go_through(ROOT / "docs/trouble.md", tmp_path)
