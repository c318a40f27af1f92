"""Lays out the pages of the documentation as a site needs them: ``python tools/docs.py``, by ``make docs``.

The pages link to each other as they lie in the repository, so that they can be read there. A site holds one folder
alone. So this copies docs/ to build/docs, puts the pages of the repository's root beside it, and makes a page of each
other file that is linked, such as an example, with its text. Only links that would leave the folder are written anew.

What is missing is an error: a page that mkdocs.yml names, or a file that a page links to.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterator
from os.path import normpath, relpath
from pathlib import Path
from textwrap import shorten
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]

#: Pages outside docs/, and what they are called in the site.
PAGES = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "measuring.md",
}
LANGUAGES = {".py": "python", ".js": "javascript", ".sh": "bash", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml"}
PICTURES = (".png", ".svg")

#: Code, fenced or in a line, is left as it is; what is left is the target of a link or picture.
LINK = re.compile(
    r"(?P<code>^(?P<fence>`{3,}).*?^(?P=fence)$|(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))"
    r"|\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)",
    re.MULTILINE | re.DOTALL,
)
#: Is for who reads the page in the repository.
UNFILLED = re.compile(r"^\*`make docs` fills this page.*\n\n", re.MULTILINE)
#: A picture of the control room, of which there are four: light and dark, for a desk and for a phone.
SCREENSHOT = re.compile(r"^!\[(?P<text>[^]]*)\]\((?P<name>\S*)-(?:light|dark)-wide\.png\)$", re.MULTILINE)
#: The first paragraph, which is what a search engine shows of a page.
FIRST = re.compile(r"^# .*\n\n(?P<text>[A-Z`].*(?:\n\S.*)*)", re.MULTILINE)
MARKUP = re.compile(r"[`*]|\[(?=[^]]*\]\()|\]\([^)]*\)")
DESCRIPTION_LENGTH = 200
FOREIGN = re.compile(r"[a-z]+:|//")


class Site:
    """The folder of a site that is being laid out, and what was found to be missing."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.problems: list[str] = []
        self._queue: list[str] = []
        self._seen: set[str] = set()

    def lay_out(self) -> None:
        """Writes the folder anew."""
        shutil.rmtree(self.target, ignore_errors=True)
        shutil.copytree(ROOT / "docs", self.target, ignore=shutil.ignore_patterns("__pycache__"))
        for path in sorted((ROOT / "docs").rglob("*.md")):
            self._add(path.relative_to(ROOT).as_posix())
        for name in PAGES:
            self._add(name)
        while self._queue:
            self._write(self._queue.pop())
        for page in pages_of_nav():
            if not (self.target / page).is_file():
                self.problems.append(f"mkdocs.yml names {page}, which is not there.")

    def _add(self, name: str) -> None:
        if name not in self._seen:
            self._seen.add(name)
            self._queue.append(name)

    def _write(self, name: str) -> None:
        source, staged = ROOT / name, self.target / place_of(name)
        staged.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            staged.write_text(self._folder(name))
        elif source.suffix in PICTURES:
            shutil.copy(source, staged)
        elif source.suffix == ".md":
            staged.write_text(self._page(name))
        else:
            fence = "`" * 8
            staged.write_text(
                f"# {name}\n\n{fence}{LANGUAGES.get(source.suffix, 'text')}\n{source.read_text().rstrip()}\n{fence}\n"
            )

    def _folder(self, name: str) -> str:
        """A page that lists the Python files of a folder, each with the first line of its docstring."""
        lines = [f"# {name}", ""]
        for path in sorted((ROOT / name).glob("*.py")):
            file = path.relative_to(ROOT).as_posix()
            self._add(file)
            said = re.match(r'(?:#.*\n)*r?"""(.*?)(?:\n|""")', path.read_text())
            text = f": {said[1]}" if said else ""
            lines.append(f"- [{path.name}]({relpath(place_of(file), Path(place_of(name)).parent)}){text}")
        return "\n".join(lines) + "\n"

    def _page(self, name: str) -> str:
        """The page with links that lead to where the files are in the site."""

        def write(match: re.Match[str]) -> str:
            target = match["target"]
            if match["code"] or FOREIGN.match(target):
                return match[0]
            file = normpath(Path(name).parent / target)
            if file.startswith("..") or not (ROOT / file).exists():
                self.problems.append(f"{name} links to {target}, which is not there.")
                return match[0]
            if not file.startswith("docs/"):
                self._add(file)
            return f"]({relpath(place_of(file), Path(place_of(name)).parent)}{match['anchor'] or ''})"

        text = LINK.sub(write, UNFILLED.sub("", (ROOT / name).read_text()))
        return described(SCREENSHOT.sub(in_four, text))


def in_four(match: re.Match[str]) -> str:
    """A picture that follows the colours of the site, and the width of the screen."""
    return "".join(
        f'<picture><source media="(max-width: 44.9em)" srcset="{match["name"]}-{scheme}-narrow.png">'
        f'<img alt="{match["text"]}" src="{match["name"]}-{scheme}-wide.png#only-{scheme}"></picture>'
        for scheme in ("light", "dark")
    )


def described(text: str) -> str:
    """A page that says of itself what its first paragraph says."""
    first = FIRST.match(text)
    if first is None:
        return text
    said = shorten(MARKUP.sub("", first["text"]), DESCRIPTION_LENGTH, placeholder=" ...")
    in_quotes = json.dumps(said.replace('"', "'"))  # the theme writes it into an attribute as it is
    return f"---\ndescription: {in_quotes}\n---\n\n{text}"


def place_of(name: str) -> str:
    """Where a file of the repository is in the site's folder."""
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    if name in PAGES:
        return PAGES[name]
    if (ROOT / name).is_dir():
        return f"source/{name}/README.md"
    return f"source/{name}" if name.endswith(PICTURES) else f"source/{name}.md"


def pages_of_nav() -> list[str]:
    """The pages that mkdocs.yml names, in their order."""

    def walk(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for part in entry if isinstance(entry, list) else entry.values():
                yield from walk(part)

    return list(walk(YAML().load((ROOT / "mkdocs.yml").read_text())["nav"]))


def main() -> int:
    """Lays out the folder that is named, build/docs by default.

    Returns:
        0; or 1 when something is missing, which is printed. With ``--partial`` that is 0, too.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", nargs="?", type=Path, default=ROOT / "build" / "docs")
    parser.add_argument("--partial", action="store_true", help="print what is missing, and go on")
    options = parser.parse_args()
    site = Site(options.target)
    site.lay_out()
    for problem in site.problems:
        print(problem, file=sys.stderr)
    return 1 if site.problems and not options.partial else 0


if __name__ == "__main__":
    sys.exit(main())
