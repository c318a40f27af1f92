"""The tables of CONTRIBUTING.md, and the commands that pages name, are what the repository has."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text()
MAKEFILE = (REPOSITORY / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
COMMAND = r"make ([a-z][a-z-]*)\b"


def first_column(heading: str) -> list[str]:
    """The first cells of the rows of the table under a heading, less its head."""
    section = CONTRIBUTING.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| (`[^|]+`) \|", section, re.MULTILINE)


def test_every_make_target_is_in_the_table() -> None:
    """A contributor finds each command of the Makefile with what it does, and no other."""
    listed = [target for cell in first_column("Set-up") for target in re.findall(COMMAND, cell)]
    assert sorted(listed) == sorted(TARGETS)
    assert set(" ".join(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)).split()) == TARGETS


def test_commands_that_pages_name_are_there() -> None:
    """Whoever reads `make ...` on a page can type it."""
    for page in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")]:
        code = re.findall(r"`[^`\n]+`|^```console\n.*?^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        named = {target for piece in code for target in re.findall(rf"(?:^|`){COMMAND}", piece, re.MULTILINE)}
        assert named <= TARGETS, page.name


def test_every_test_folder_is_in_the_table() -> None:
    """A contributor finds where a test belongs: each folder with its rule, and no other."""
    folders = {path.parent for path in (REPOSITORY / "tests").glob("*/*.py")}
    assert sorted(first_column("Tests")) == sorted(f"`tests/{folder.name}`" for folder in folders)


def test_no_package_is_promised() -> None:
    """Whoever types a command that a page, an example or a message names gets this project: none is published yet."""
    files = [
        path
        for pattern in ("*.md", "docs/**/*.md", "src/**/*.py", "examples/*.py")
        for path in REPOSITORY.glob(pattern)
    ]
    assert [path.name for path in files if re.search(r"pip install [^\n`]*\bpointsman\b(?!:)", path.read_text())] == []
