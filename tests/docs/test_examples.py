"""What the documentation says can be done, and what it points to is there."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pointsman as serve
from tests.conftest import empty
from tests.docs import forking
from tests.docs.programs import assert_succeeded

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- not run:((?:(?!-->).)*)-->\n\Z", re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

FREE_PORT = 'serve.start(http_options={"port": 0}, metrics_export_port=0)'
INSTANCE = "examples"
OF_ITS_OWN = re.compile(r"with serve\.start|shutdown\(|stop\(|stats\(")
"""Examples that end their instance, or count what was in it from the beginning."""
# Written in two parts, so that this file does not mention them.
FORBIDDEN = re.compile("|".join(map(re.escape, ("/wor" + "k/", ".lib" + "rary", "sub" + "agent"))), re.IGNORECASE)


@functools.cache
def shown() -> list[Path]:
    """All files of the repository, without what is installed, built or hidden: folders of that kind have many more."""
    found = []
    for folder, inner, names in os.walk(ROOT):
        inner[:] = [one for one in inner if not one.startswith(".") and one not in ("build", "dist")]
        found += [Path(folder, one) for one in names if not one.startswith(".")]
    return sorted(found)


def files(*patterns: str) -> Iterator[Path]:
    """Files of the repository, without what is installed, built or hidden."""
    for pattern in patterns:
        yield from (path for path in shown() if path.match(pattern))


#: Pages with programs of several files, or that need what these tests do not have: each has a test of its own.
ELSEWHERE = ("docs/load.md", "docs/run.md", "docs/trouble.md", "docs/tutorials/", "docs/migration/", "docs/examples/")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def with_examples() -> list[str]:
    """The pages of the documentation whose Python blocks are scripts."""
    names = [relative(path) for path in files("*.md") if BLOCK.search(path.read_text())]
    return [name for name in names if name.startswith("docs/") and not name.startswith(ELSEWHERE)]


WITH_EXAMPLES = with_examples()


def blocks() -> Iterator[tuple[str, str, str | None]]:
    """Name, code and, where it is not run, the reason of each Python block."""
    for name in WITH_EXAMPLES:
        text = (ROOT / name).read_text()
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            mark = MARK.search(text, 0, match.start())
            yield f"{name}:{line}", match[1], mark[1].strip() if mark else None


def anchors(text: str) -> set[str]:
    """The names that a Markdown viewer gives to the headings of a page."""
    headings = HEADING.findall(FENCED.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


EXAMPLES = list(blocks())


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_are_found(name: str) -> None:
    """Each page with examples has some: an empty list would prove nothing."""
    assert any(example[0].startswith(name) for example in EXAMPLES)


@pytest.fixture(scope="module")
def instance() -> Iterator[serve.Client]:
    """For examples of which each would start one, with nothing but the ports said."""
    with serve.start(True, name=INSTANCE, http_options={"port": 0}, metrics_export_port=0) as client:
        yield client


class Scripts:
    """Runs scripts by :mod:`tests.docs.forking`."""

    def __init__(self) -> None:
        self._python = subprocess.Popen(
            [sys.executable, str(Path(forking.__file__))],
            env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
        assert self._python.stdin is not None
        assert self._python.stdout is not None
        files = [folder / name for name in ("example.py", "output", "errors")]
        files[0].write_text(text)
        self._python.stdin.write("\t".join(map(str, files)) + "\n")
        self._python.stdin.flush()
        code = int(self._python.stdout.readline())
        return subprocess.CompletedProcess(["example.py"], code, *(path.read_text() for path in files[1:]))

    def close(self) -> None:
        self._python.communicate()


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    with contextlib.closing(Scripts()) as scripts:
        yield scripts


@pytest.fixture
def emptied(instance: serve.Client) -> Iterator[None]:
    yield
    empty(instance)


@pytest.mark.parametrize(("code", "reason"), [pytest.param(*rest, id=name) for name, *rest in EXAMPLES])
@pytest.mark.usefixtures("emptied")
def test_example_runs(code: str, reason: str | None, tmp_path: Path, scripts: Scripts) -> None:
    """Whoever copies an example into a script and runs it sees no error.

    Only its port is changed here; and where an example says nothing but the port of its instance, and neither ends it
    nor counts what was in it, one that is there takes its place.
    """
    if reason is not None:
        assert reason, "a block that is not run must say why"
        pytest.skip(reason)
    code = code.replace("serve.start()", FREE_PORT)
    starts = re.findall(r"serve\.start\(.*", code)
    free = ('"port": 0', '"location": None')
    assert all(any(one in start for one in free) for start in starts), "an example starts on a port that may be taken"
    if code.count("serve.start(") == code.count(FREE_PORT) == 1 and not OF_ITS_OWN.search(code):
        code = code.replace(FREE_PORT, f"serve.connect({INSTANCE!r})")
    assert_succeeded(scripts.run(code, tmp_path))


@pytest.mark.parametrize("page", list(files("*.md")), ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page leads to a file of the repository, and to a heading where it names one."""
    text = page.read_text()
    for link in LINK.findall(FENCED.sub("", text)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{relative(page)} links to {link}, which does not exist"
        assert target.resolve().is_relative_to(ROOT), f"{relative(page)} links to {link}, outside the repository"
        if anchor:
            assert anchor in anchors(target.read_text()), f"{relative(page)} links to {link}, no such heading"


def test_files_name_nothing_of_the_workplace() -> None:
    """A reader finds nothing in a source file or page that exists only where it was written."""
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in files("*.md", "*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", serve.__all__)
def test_public_names_can_be_used(name: str) -> None:
    """Every name that the package offers can be imported, and is found by dir(): names are loaded on first use."""
    assert getattr(serve, name) is not None
    assert name in dir(serve)
