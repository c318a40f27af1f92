"""Writes every screen of the page to ``docs/screenshots``: light and dark, at the width of a desk and of a phone."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from tests.browser.chromium import launched
from tests.browser.gallery import SHADOWED, busy
from tests.browser.screens import screens, settle
from tests.browser.shop import Shop
from tests.browser.viewer import DESK, PHONE, looking

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
MAX_BYTES = 60_000
COLOURS = (128, 64, 32)


def small(png: bytes) -> bytes:
    """The same picture with as many colours as its size allows."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in COLOURS:
        written = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(written, "PNG", optimize=True)
        if written.tell() <= MAX_BYTES:
            break
    return written.getvalue()


def take(browser: Browser, shop: Shop, folder: Path, *, whole: bool) -> None:
    """Write the pictures.

    Args:
        whole: what has to be scrolled to, too.
    """
    for theme in ("light", "dark"):
        for width, size in (("wide", DESK), ("narrow", PHONE)):
            with looking(browser, size, color_scheme=theme, reduced_motion="reduce") as viewer:
                viewer.page.goto(shop.url)
                viewer.page.get_by_role("button", name="Sign in").wait_for()
                shots = {"sign-in": viewer.page.screenshot()}
                viewer.page.goto("about:blank")
                viewer.open(shop.link())
                for name, screen in screens(SHADOWED, "ranker-v2").items():
                    viewer.go(screen)
                    settle(viewer)
                    shots[name] = viewer.page.screenshot(full_page=whole)
                for name, png in shots.items():
                    (folder / f"{name}-{theme}-{width}.png").write_bytes(small(png))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--whole", action="store_true", help="with what has to be scrolled to")
    parser.add_argument("--after", type=float, default=90, help="seconds of traffic before, for graphs with a shape")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    with busy(asked.after) as shop, launched() as browser:
        take(browser, shop, asked.folder, whole=asked.whole)


if __name__ == "__main__":
    main()
