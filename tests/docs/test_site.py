"""The documentation as a site: strict, whole, and quiet. Built once for all of these tests."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser.chromium import chromium_path, launched

pytest.importorskip("zensical", reason="zensical is not there: it needs Python 3.11")

from tests.docs.site import ROOT, Reader, build, pages_of_nav, served
from tests.docs.surface import Name, load, problems, public_names

#: Pages that another page lists, so that they need no place of their own in the navigation.
LISTED_ELSEWHERE = re.compile(r"decisions/\d{4}-")
#: What a tag or a style sheet loads by itself.
LOADS = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src"), ("link", "href")}
#: Hosts that the theme's script knows, and asks only where a page has a diagram, a player, or a repository's address.
ASKED_ONLY_FOR = {
    "unpkg.com/resize-observer-polyfill",  # browsers from before 2020
    "unpkg.com/mermaid",
    "unpkg.com/glightbox",
    "unpkg.com/ace-builds",
    "unpkg.com/pyodide",
    "cdn.jsdelivr.net/pyodide",
    "api.github.com/",
    "gitlab.com/",
}


class Page(HTMLParser):
    """What of a page of the site leads anywhere, or can be led to.

    Attributes:
        anchors: ids.
        links: what its ``a`` lead to.
        loaded: what it loads by itself, by tag.
        text: what is in its article.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loaded: list[tuple[str, str]] = []
        self.tags: set[str] = set()
        self.text = path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.tags.add(tag)
        self.anchors |= {given[name] for name in ("id", "name") if name in given and tag != "meta"}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        for name in ("src", "href"):
            if (tag, name) in LOADS and name in given:
                self.loaded.append((tag, given[name]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {path.relative_to(site).as_posix(): Page(path) for path in sorted(site.rglob("*.html"))}


def html_of(page: str) -> str:
    return re.sub(r"(^|/)README\.md$", r"\1index.html", page).replace(".md", ".html")


def test_each_page_of_the_navigation_is_there(pages: dict[str, Page]) -> None:
    """The site has every page that its navigation names, and the navigation every page of docs/ (DO1)."""
    named = pages_of_nav()
    assert [page for page in named if html_of(page) not in pages] == []
    written = [path.relative_to(ROOT / "docs").as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]
    assert [page for page in written if page not in named and not LISTED_ELSEWHERE.match(page)] == []
    assert len(named) == len(set(named))


def test_every_link_leads_somewhere(site: Path, pages: dict[str, Page]) -> None:
    """A reader who follows a link, to a page, a heading or a file, finds it there (DO1)."""
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    dead = []
    for name, page in pages.items():
        if name == "404.html":
            continue
        for link in page.links | {url for _, url in page.loaded}:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                continue
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path)))
            if not parts.path:
                target = name
            elif target not in files:
                target = posixpath.normpath(f"{target}/index.html")
            there = pages.get(target)
            if target not in files or (parts.fragment and there and unquote(parts.fragment) not in there.anchors):
                dead.append(f"{name}: {link}")
    assert dead == []


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    """Who reads the site asks no other host: no font, script, style or picture comes from one (DO1)."""
    foreign = [
        f"{name}: {tag} {url}" for name, page in pages.items() for tag, url in page.loaded if urlsplit(url).netloc
    ]
    assert foreign == []
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", path.read_text()), path
    for path in site.rglob("*.js"):
        if path.name == "search.js":
            continue
        hosts = re.findall(r"[\"'`](?:https?:)?//([a-z0-9.-]+\.[a-z]{2,}/[^\"'`]*)", path.read_text())
        unknown = [url for url in hosts if not url.startswith((*ASKED_ONLY_FOR, "www.w3.org/"))]
        assert unknown == [], path
    assert not any(re.search(r'class="(mermaid|glightbox|arithmatex)', page.text) for page in pages.values())


def test_it_is_searched_and_read_without_asking_anybody(site: Path) -> None:
    """The site is read and searched where nothing comes from elsewhere, from a server and from a disk (DO1)."""
    if chromium_path() is None:
        pytest.skip("chromium is not there (Debian: make chromium)")
    with launched() as browser, served(site) as address:
        for base in (address, site.as_uri()):
            reader = Reader(browser, base)
            reader.open("traffic.html")
            assert any("api/client.html" in link for link in reader.found("shadow report")), base
            for name in ("index.html", "api/client.html", "control-room.html"):
                page = reader.open(name)
                assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)"), name
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
            assert "light-wide" in shown_picture(page), base
            page.emulate_media(color_scheme="dark")
            page.set_viewport_size({"width": 390, "height": 844})
            assert "dark-narrow" in shown_picture(reader.open("index.html")), base
            assert (reader.refused, reader.errors) == ([], []), base


def shown_picture(page: Any) -> str:
    """The address of the first picture of the control room that is seen: it follows the colours and the width."""
    return str(page.locator("article picture img:visible").first.evaluate("image => image.currentSrc"))


def test_the_index_of_the_search_has_what_is_on_the_pages(site: Path) -> None:
    """What a page, a heading or a docstring says can be searched (DO1)."""
    items = json.loads((site / "search.json").read_text())["items"]
    for words, location in (
        ("rollback_traffic", "api/client.html"),
        ("weighted rendezvous", "concepts/weighted-rendezvous.html"),
        ("Idempotency-Key", "guide/endpoints.html"),
    ):
        found = [item["location"] for item in items if words.lower() in f"{item['title']} {item['text']}".lower()]
        assert any(each.startswith(location) for each in found), (words, found)


@cache
def names() -> list[Name]:
    return public_names(load())


def test_every_public_name_says_what_it_does() -> None:
    """Each public name has a docstring, with all that it takes, what it returns and what it raises (DO1)."""
    assert len(names()) > 400
    lacking = [f"{name.path} {problem}" for name in names() for problem in problems(name)]
    assert lacking == []


def test_every_public_name_is_on_a_page(pages: dict[str, Page]) -> None:
    """The reference has every public name: itself as a heading, or as an attribute of its class (DO1)."""
    reference = {name: page for name, page in pages.items() if name.startswith("api/")}
    anchors = {anchor: name for name, page in reference.items() for anchor in page.anchors}
    missing = [
        name.path for name in names() if name.path not in anchors and not described_with_owner(name, anchors, pages)
    ]
    assert missing == []


def described_with_owner(name: Name, anchors: dict[str, str], pages: dict[str, Page]) -> bool:
    owner, _, attribute = name.path.rpartition(".")
    return owner in anchors and bool(re.search(rf">{attribute}</(code|b|strong|span)>", pages[anchors[owner]].text))


def test_docstrings_are_read_without_doubt(site: Path) -> None:
    """What a page of the reference shows is what the docstring says: no role or directive of Sphinx is left (DO1)."""
    left: list[str] = []
    for path in sorted((site / "api").glob("*.html")):
        left += [f"{path.name}: {each}" for each in not_rendered(path.read_text())]
    assert left == []


def test_what_can_be_called_says_how(site: Path) -> None:
    """Each function and method of the reference shows its parameters, not its name alone (DO1)."""
    heading = re.compile(
        r'class="doc doc-object doc-function">\s*<h\d id="([^"]+)"(.*?)<div class="doc doc-contents', re.DOTALL
    )
    for path in sorted((site / "api").glob("*.html")):
        for name, shown in heading.findall(path.read_text()):
            assert "(" in re.sub("<[^>]+>", "", shown.partition("<code>")[2]), f"{path.name}: {name}"


def test_each_page_is_described_by_its_own_words(pages: dict[str, Page]) -> None:
    """What a search engine shows of a page is its first paragraph, whole as an attribute (DO1)."""
    shown = [re.findall(r'<meta name="description" content="([^"]*)">', page.text) for page in pages.values()]
    said = [each for found in shown for each in found if not each.startswith("Model serving in Python, where")]
    assert len(said) > 90
    assert len(set(said)) == len(said)
    assert [each for each in said if "](" in each or "`" in each] == []


def test_cells_of_tables_show_no_backslash(pages: dict[str, Page]) -> None:
    """A pipe in code that is escaped for a table of GitHub is shown with its backslash by the site (DO1)."""
    cells = [(name, cell) for name, page in pages.items() for cell in re.findall("<td>.*?</td>", page.text)]
    assert [(name, cell) for name, cell in cells if r"\|" in cell] == []


def not_rendered(text: str) -> Iterator[str]:
    for pattern in (
        r":(?:class|meth|func|mod|attr|exc):<code>\w*",
        r"<p>:::[^<]*",
        r"``\w+",
        r"fills this page from the docstrings",
    ):
        yield from re.findall(pattern, text)
