"""The files of the tests themselves."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).parents[1]
MOST_LINES = 600


def test_a_file_of_tests_is_read_in_one_go() -> None:
    """No file of tests has more than 600 lines: a longer one is cut by subject."""
    lines = {str(path.relative_to(TESTS)): path.read_bytes().count(b"\n") for path in TESTS.rglob("*.py")}
    assert {file: count for file, count in lines.items() if count > MOST_LINES} == {}
