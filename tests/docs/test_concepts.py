"""The drawings of docs/concepts: what the code does, drawn; and readable for everybody."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.docs.test_examples import ROOT

sys.path.insert(0, str(ROOT / "docs/plots"))
import concepts
from drawing import SIZE, WIDTH

FOLDER = ROOT / "docs/concepts"
DRAWINGS = sorted(path.name for path in FOLDER.glob("*.svg"))
TELEPHONE = 343
"""Pixels that the site leaves for a picture where the window has 390 and a scroll bar."""


@pytest.fixture(scope="module")
def drawn() -> dict[str, str]:
    return concepts.drawings()


def test_drawings_show_what_the_code_does(drawn: dict[str, str]) -> None:
    """Owners of keys, evidence, intervals and costs in the drawings are those of the code and pages of today."""
    assert sorted(drawn) == DRAWINGS
    for name, svg in drawn.items():
        assert (FOLDER / name).read_text() == svg, f"{name}: run docs/plots/concepts.py"


@pytest.mark.parametrize("name", DRAWINGS)
def test_drawings_are_readable(name: str) -> None:
    """Each drawing is on a page, says in words what it shows, and has letters of 12 pixels or more on a telephone."""
    svg = (FOLDER / name).read_text()
    assert any(f"]({name})" in page.read_text() for page in FOLDER.glob("*.md"))
    assert re.search(r"<title id=\"title\">[^<]+</title>\n<desc id=\"desc\">[^<]{40,}</desc>", svg)
    assert set(re.findall(r"font(?:-size)?: ([\d.]+)px", svg)) == {str(SIZE)}
    assert SIZE * TELEPHONE / WIDTH >= 12


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.stem)
def test_pages_are_short(page: Path) -> None:
    """A page of concepts has at most 150 lines."""
    assert len(page.read_text().splitlines()) <= 150
