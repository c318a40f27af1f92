"""The documentation as a site: built, served from this machine, and opened in a browser that must ask nobody else."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request, Route

ROOT = Path(__file__).resolve().parents[2]

#: The pages that the navigation of mkdocs.yml names, in their order, as what lays out the site reads it.
pages_of_nav = runpy.run_path(str(ROOT / "tools" / "docs.py"))["pages_of_nav"]


def build(folder: Path) -> Path:
    """The site, built strictly in a folder that is empty; nothing is written into the repository.

    Raises:
        AssertionError: a page is missing, or a link leads nowhere.
    """
    shutil.copy(ROOT / "mkdocs.yml", folder)
    for name in ("src", "tools"):
        (folder / name).symlink_to(ROOT / name)
    laid = run([sys.executable, str(ROOT / "tools" / "docs.py"), str(folder / "build" / "docs")], folder)
    assert laid.returncode == 0, laid.stderr
    built = run([str(Path(sys.executable).parent / "zensical"), "build", "--clean", "--strict"], folder)
    said = re.sub(r"\x1b\[[0-9;]*m", "", built.stdout + built.stderr)
    assert built.returncode == 0, said
    assert "griffe:" not in said, said  # it reads a docstring otherwise than is meant
    return folder / "site"


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


class Quiet(SimpleHTTPRequestHandler):
    """Files, without a line for each."""

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def served(site: Path) -> Iterator[str]:
    """The address under which the site's files are, until the end of the block."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class Reader:
    """Somebody with a browser, who gets files from one address alone, and what else the pages have asked for."""

    def __init__(self, browser: Browser, base: str, *, width: int = 1280, dark: bool = False) -> None:
        self.base = base
        self.refused: list[str] = []
        self.errors: list[str] = []
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        self.context.route("**/*", self._route)
        self.page: Page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("requestfailed", self._failed)

    def _route(self, route: Route) -> None:
        if route.request.url.startswith((self.base, "data:", "blob:")):
            route.continue_()
        else:
            self.refused.append(route.request.url)
            route.abort()

    def _failed(self, request: Request) -> None:
        if request.url.startswith(self.base) and request.failure != "net::ERR_ABORTED":
            self.errors.append(f"{request.url}: {request.failure}")

    def open(self, name: str) -> Page:
        """A page of the site, loaded."""
        self.page.goto(f"{self.base}/{name}", wait_until="load")
        return self.page

    def found(self, words: str) -> list[str]:
        """What the search field of the page lists for words: the addresses within the site."""
        self.page.keyboard.press("/")
        self.page.get_by_placeholder("Search").fill(words)
        hits = self.page.get_by_role("option")
        hits.first.wait_for()
        return [str(hit.get_attribute("href")) for hit in hits.all()]
