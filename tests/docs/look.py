"""Every page of the site in a browser, at the width of a desk and of a phone, light and dark: what is wrong with each,
and a picture of it: ``python -m tests.docs.look FOLDER [PAGE...]``, which builds the site first.

Not part of the gate: it takes minutes, and pictures are for people.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.browser.chromium import launched
from tests.docs.site import Reader, build, served

WIDTHS = (1280, 390)
#: Two rules that the theme breaks: buttons of code blocks are landmarks, and a first cell of a table may be empty.
AXE = {
    "resultTypes": ["violations"],
    "rules": {name: {"enabled": False} for name in ("landmark-unique", "empty-table-header")},
}

#: What of a page is wrong, as texts.
WRONG = """() => {
  const found = [];
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) found.push(`is ${root.scrollWidth - root.clientWidth} px too wide`);
  for (const image of document.images) {
    if (image.complete && !image.naturalWidth) found.push(`lacks ${image.src}`);
    if (!image.hasAttribute("alt")) found.push(`says nothing of ${image.src}`);
  }
  const clips = (element) => {
    for (let box = element.parentElement; box && !box.matches("article"); box = box.parentElement)
      if (/auto|scroll/.test(getComputedStyle(box).overflowX)) return true;
    return false;
  };
  for (const element of document.querySelectorAll("article table, article pre, article img, article code")) {
    const box = element.getBoundingClientRect();
    if (box.right > root.clientWidth + 1 && !clips(element)) found.push(`${element.tagName} ends at ${box.right} px`);
  }
  let before = 0;
  for (const heading of document.querySelectorAll("article :is(h1, h2, h3, h4, h5, h6)")) {
    const level = Number(heading.tagName[1]);
    if (level > before + 1) found.push(`has h${level} behind h${before}: ${heading.textContent}`);
    if (level > 1 && !heading.id) found.push(`has no anchor for ${heading.textContent}`);
    before = level;
  }
  if (document.querySelectorAll("article h1").length !== 1) found.push("has not one h1");
  for (const text of document.querySelectorAll("article p, article li"))
    if (/^\\s*\\|.*\\|\\s*$|```|^:::|\\]\\(/m.test(text.innerText) && !text.querySelector("code"))
      found.push(`shows Markdown: ${text.innerText.slice(0, 80)}`);
  return [...new Set(found)];
}"""


def by_axe(page: Any) -> Iterator[str]:
    """What axe finds on a page."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options=AXE)
    for violation in found.response["violations"]:
        for node in violation["nodes"][:2]:
            yield f"{violation['id']}: {node['html'][:120]} ({node['any'][0]['message'][:120] if node['any'] else ''})"


def look(site: Path, pictures: Path, names: list[str]) -> int:
    """Prints what is wrong, and returns how much that is."""
    count = 0
    with launched() as browser, served(site) as base:
        for width in WIDTHS:
            for dark in (False, True):
                reader = Reader(browser, base, width=width, dark=dark)
                for name in names:
                    page = reader.open(name)
                    page.wait_for_timeout(100)
                    wrong = list(page.evaluate(WRONG))
                    if width == WIDTHS[0]:
                        wrong += by_axe(page)
                    for text in wrong:
                        print(f"{name} ({width}, {'dark' if dark else 'light'}) {text}")
                    count += len(wrong)
                    shown = f"{name.removesuffix('.html').replace('/', '_')}-{width}-{'dark' if dark else 'light'}.png"
                    page.screenshot(path=str(pictures / shown))
                for text in reader.refused + reader.errors:
                    print(f"asked for or failed: {text}")
                count += len(reader.refused + reader.errors)
                reader.context.close()
    return count


def main() -> int:
    """Builds the site, looks at it, and leaves pictures in the folder that is named."""
    pictures = Path(sys.argv[1])
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        site = build(Path(folder))
        names = sys.argv[2:] or sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))
        return 1 if look(site, pictures, names) else 0


if __name__ == "__main__":
    sys.exit(main())
