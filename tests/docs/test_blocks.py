"""Every block that a reader may type is run by a test, or says why not; commands and files on pages are right."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

from pointsman.cli.main import app
from pointsman.configfile.checking import load
from tests.docs.test_examples import ROOT, WITH_EXAMPLES, files, relative

FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- not run: ([^>]+) -->\s*\Z")
TYPED = {"console", "bash", "sh"}
FILES = {"yaml", "toml"}

RUN_BY = {
    "README.md": "tests/docs/test_readme.py",
    "docs/README.md": "tests/docs/test_first_page.py",
    "docs/console-api.md": "tests/docs/test_console_api.py",
    "docs/examples/": "tests/docs/test_example_pages.py",
    "docs/load.md": "tests/docs/test_load.py",
    "docs/migration/": "tests/docs/test_migration*.py",
    "docs/trouble.md": "tests/docs/test_trouble.py",
    "docs/tutorials/": "tests/docs/test_tutorials.py",
}
"""Pages, or folders of them, of which a test runs every block without a mark. Those of examples are pieces of programs
that tests run, or what these print."""


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    """All blocks of the README and of the documentation."""
    found = []
    for path in files("*.md"):
        name, text = relative(path), path.read_text()
        if name == "README.md" or name.startswith("docs/"):
            for match in FENCE.finditer(text):
                mark = MARK.search(text, 0, match.start())
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(name, line, match[2], match[3], mark[1] if mark else None))
    return found


BLOCKS = blocks()


def run_by(page: str) -> str | None:
    return next((test for start, test in RUN_BY.items() if page.startswith(start)), None)


@pytest.mark.parametrize("start", RUN_BY)
def test_what_is_said_to_run_a_page_names_it(start: str) -> None:
    """The test that runs a page is there, and names that page."""
    tests = list(ROOT.glob(RUN_BY[start]))
    assert tests
    assert all(start.rstrip("/").rpartition("/")[2] in test.read_text() for test in tests)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in {"python", *TYPED, *FILES}], ids=str)
def test_a_block_is_run_or_says_why_not(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader can copy from a page has been run as it stands there, or a comment above it says why it was not;
    a configuration file has been read and checked at least (CF4)."""
    if block.reason is not None:
        assert len(block.reason.split()) >= 3, "a block that is not run must say why"
    elif run_by(block.page) is None and not (block.language == "python" and block.page in WITH_EXAMPLES):
        assert block.language in FILES, f"{block}: no test runs it, and it does not say <!-- not run: reason -->"
        monkeypatch.setenv("HUB_TOKEN", "secret")
        (tmp_path / f"shop.{block.language}").write_text(block.text)
        load(tmp_path / f"shop.{block.language}")


CALLED = re.compile(r"\$\((?!pointsman)[^\n]*\)|\$rate\b|\bN\b")
"""What stands for a number."""
OPTIONS = "$OTHERS"
ENDS = set("();<>|&")


def as_typed(block: Block) -> str:
    """The lines that are typed: where a block shows what is printed, those behind a dollar."""
    text = re.sub(r"\\\n\s*", " ", block.text)
    return "\n".join(re.findall(r"^\$ (.*)", text, re.MULTILINE)) if text.startswith("$ ") else text


def commands() -> Iterator[tuple[str, list[str]]]:
    """Where it stands, and the words of each command line of Pointsman, whether it is run or not."""
    for block in BLOCKS:
        if block.language not in TYPED | {"yaml"}:
            continue
        for line in as_typed(block).splitlines():
            words = shlex.shlex(CALLED.sub("1", line.replace(OPTIONS, "")), posix=True, punctuation_chars=True)
            words.whitespace_split = True
            try:
                typed = list(words)
            except ValueError:
                assert not line.startswith("pointsman"), f"{block}: {line}"
                continue  # a line of a text in quotes
            while "pointsman" in typed:
                typed = typed[typed.index("pointsman") + 1 :]
                end = next((place for place, word in enumerate(typed) if set(word) <= ENDS), len(typed))
                yield f"{block}", typed[:end]


PROGRAM = typer.main.get_command(app)


def parsed(words: list[str]) -> Any:
    """Parse a command line as the command does, and do nothing."""
    command: Any = PROGRAM
    context = None
    while True:
        context = command.make_context(words[0] if words else "", list(words), parent=context)
        rest = [*context._protected_args, *context.args]
        if not hasattr(command, "resolve_command"):
            return context
        _, command, words = command.resolve_command(context, rest)


@pytest.mark.parametrize("words", [pytest.param(words, id=f"{place}-{words[0]}") for place, words in commands()])
def test_a_command_on_a_page_is_one(words: list[str]) -> None:
    """Each command of Pointsman on a page exists, with the options and arguments that it is given there (RN1)."""
    parsed(words)


def test_every_command_is_on_the_page_of_commands() -> None:
    """Who looks for a command on its page finds all that there are, those of groups too (RN1)."""
    text = (ROOT / "docs/guide/command-line.md").read_text()
    for name, command in PROGRAM.commands.items():  # type: ignore[attr-defined]
        assert re.search(rf"\b{name}\b", text), name
        for within in getattr(command, "commands", ()):
            assert re.search(rf"^pointsman {name} .*\b{within}\b", text, re.MULTILINE), f"{name} {within}"


INLINE = re.compile(r"`pointsman ([^`]+)`")


def test_options_in_sentences_are_those_of_their_command() -> None:
    """A command that a sentence mentions takes the options that it is given there (RN1)."""
    for path in files("*.md"):
        text = path.read_text()
        if relative(path).startswith("docs/decisions/") or relative(path) == "CHANGELOG.md":
            continue
        for mentioned in INLINE.findall(FENCE.sub("", text)):
            command: Any = PROGRAM
            words = mentioned.split()
            while words and words[0] in getattr(command, "commands", ()):
                command = command.commands[words.pop(0)]
            options = {option for each in command.params for option in each.opts} | {"--help"}
            given = {word for word in words if re.fullmatch(r"--[a-z][a-z-]+", word)}
            assert given <= options, f"{relative(path)}: `pointsman {mentioned}`"
