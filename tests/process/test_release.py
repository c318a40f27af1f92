"""What a release uploads, built as `make dist` builds it but for compiled modules; what it is made of, and what is said
of it. `make dist` itself installs the files, on each Python, and uses them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from pathlib import Path, PurePosixPath

import pytest

from pointsman.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "pointsman"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, and the wheel that was built out of it."""
    folder = tmp_path_factory.mktemp("dist")
    uv = [str(Path(sys.executable).parent / "uv"), "build", "--quiet", "--python", sys.executable]
    environment = {**os.environ, "POINTSMAN_PURE": "1"}
    built = subprocess.run([*uv, "--out-dir", str(folder)], cwd=ROOT, env=environment, capture_output=True, text=True)
    if built.returncode and re.search(r"dns error|[Ff]ailed to fetch|error sending request", built.stderr):
        pytest.skip("what builds the package cannot be downloaded here")
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(dist / f"pointsman-{VERSION}-py3-none-any.whl") as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    return message_from_bytes(wheel.read(f"pointsman-{VERSION}.dist-info/METADATA"))


def test_a_wheel_holds_the_package_and_no_more(wheel: zipfile.ZipFile) -> None:
    """I get each file of the package, the page of the console, recipes and the marker of its types among them, its
    licence, and no tests."""
    held = {name for name in wheel.namelist() if not name.startswith(f"pointsman-{VERSION}.dist-info/")}
    there = {
        str(PurePosixPath("pointsman") / path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == there
    needed = ("py.typed", "console/page/index.html", "console/page/js/main.js", "console/LICENSES", "ingress/docs.html")
    assert {f"pointsman/{name}" for name in (*needed, "cli/recipes/Dockerfile")} <= held
    assert f"pointsman-{VERSION}.dist-info/licenses/LICENSE" in wheel.namelist()
    scripts = wheel.read(f"pointsman-{VERSION}.dist-info/entry_points.txt").decode()
    assert "pointsman = pointsman.cli.main:main" in scripts


def test_a_source_distribution_holds_what_it_is_built_and_tested_by(dist: Path) -> None:
    """From a source distribution I can build, test and read the documentation; it holds no environment and no cache."""
    with tarfile.open(dist / f"pointsman-{VERSION}.tar.gz") as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    needed = ("Makefile", "pyproject.toml", "hatch_build.py", "LICENSE", "CHANGELOG.md", "docs/README.md", "mkdocs.yml")
    assert set(needed) <= held
    assert {"tests/conftest.py", "examples/speech.py", "tools/dist.py", "src/pointsman/py.typed"} <= held
    assert not [name for name in held if ".venv" in name or "__pycache__" in name or name.startswith((".git/", "dist"))]


def test_a_registry_shows_the_readme(metadata: Message) -> None:
    """A package registry shows the README, its code as it is, and no link or picture that leads nowhere."""
    from readme_renderer import markdown

    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    assert isinstance(text, str)
    shown = markdown.render(text)
    assert shown is not None
    assert re.search("<h1[^>]*>Pointsman<", shown)
    links = re.findall(r'(?:href|src)="([^"]*)"', shown)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    blocks = re.findall(r"^```.*?^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    assert [block for block in blocks if block not in text] == []


def test_versions_agree(metadata: Message) -> None:
    """The package, its metadata and the first version of the changelog say one version; the others were released."""
    assert metadata["Version"] == VERSION
    headings = re.findall(r"^## \[(.*?)\](?: - (.*))?$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    if headings[0] == ("Unreleased", ""):
        headings.pop(0)
    else:
        assert headings[0][1] == "unreleased"
    (version, date), *earlier = headings
    assert version == VERSION
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for _, date in earlier)
    assert date == "unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", date)


def test_what_is_required_is_licensed_liberally() -> None:
    """What I get with the package asks for no more than to pass its licence on: `make audit` prints each."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import audit
    finally:
        sys.path.remove(str(ROOT / "tools"))
    core = [package for package in audit.packages() if not package.extra]
    assert {"starlette", "uvicorn", "uvloop", "pydantic", "httptools"} <= {package.name for package in core}
    assert [package for package in core if not audit.is_allowed(package.licence)] == []
    assert not audit.is_allowed("GPL-3.0-only")
    assert not audit.is_allowed("MIT AND GPL-3.0-only")
    assert audit.is_allowed("GPL-3.0-only OR MIT")

    found = '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}]}'
    assert audit.read_report(found, "") == (["a 1: PYSEC-1, fixed in 2"], "")
    unknown = '{"dependencies": [{"name": "a", "skip_reason": "not there"}]}'
    assert audit.read_report(unknown, "") == ([], "1 of 1 packages: not there")
    assert audit.read_report("", "one\nno connection\n") == ([], "no connection")


def test_no_named_tuple_is_generic() -> None:
    """The package can be imported on Python 3.10, which refuses a named tuple that is generic."""
    generic = re.compile(r"^ *class \w+\((?:NamedTuple, .*|.*, NamedTuple)\):", re.MULTILINE)
    assert [str(path) for path in PACKAGE.rglob("*.py") if generic.search(path.read_text())] == []
