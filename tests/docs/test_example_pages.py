"""The examples can be read at one sitting, and their pages show what they hold."""

from __future__ import annotations

import re
from textwrap import dedent, indent

import pytest

from tests.docs.example_pages import PAGES, ROOT, page_of

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_has_fewer_than_150_lines(example: str) -> None:
    """I read an example in one go."""
    lines = (ROOT / "examples" / f"{example}.py").read_text().splitlines()
    assert len(lines) < 150


@pytest.mark.parametrize("example", PAGES)
def test_a_page_shows_code_as_it_is_in_the_example(example: str) -> None:
    """The pieces of code on the page are pieces of the program, letter by letter, so what runs is what I read."""
    code = (ROOT / "examples" / f"{example}.py").read_text()
    pieces = [dedent(piece) for piece in BLOCK.findall(page_of(example))]
    assert len(pieces) >= 3
    for piece in pieces:
        assert any(indent(piece, " " * depth) in code for depth in (0, 4, 8)), piece


@pytest.mark.parametrize("example", PAGES)
def test_an_example_names_its_page(example: str) -> None:
    """From the program I find the page, and from the page the program."""
    assert f"docs/examples/{PAGES[example]}.md" in (ROOT / "examples" / f"{example}.py").read_text()
    assert f"(../../examples/{example}.py)" in page_of(example)
