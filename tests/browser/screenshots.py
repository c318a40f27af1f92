"""Writes every screen of the page to ``docs/screenshots``: light and dark, at the width of a desk and of a phone."""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from tests.browser.chromium import launched
from tests.browser.gallery import FAILING_BACKEND, ROLLED, SCALED_BACKEND, SHADOWED, busy
from tests.browser.screens import screens, settle
from tests.browser.shop import Shop
from tests.browser.viewer import PHONE, Viewer, looking

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
MAX_BYTES = 60_000
WIDE = {"width": 1280, "height": 960}
MORE = {"rollout": f"#/endpoint/{ROLLED}", "failures": f"#/backend/{FAILING_BACKEND}"}
"""Screens again, with other things on them."""

COLOURS = (256, 128, 64, 32)


def small(png: bytes) -> bytes:
    """The same picture with as many colours as its size allows."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in COLOURS:
        written = io.BytesIO()
        # MAXCOVERAGE: a colour of few pixels, such as that of a small share, is kept.
        few = picture.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(written, "PNG", optimize=True)
        if written.tell() <= MAX_BYTES:
            break
    return written.getvalue()


def draft(viewer: Viewer) -> None:
    """Move a slider, and leave it so."""
    slider = viewer.page.get_by_role("slider", name="Share of ranker-v2")
    for _ in range(5):
        slider.press("ArrowRight")
    viewer.page.get_by_text("of keys move").wait_for()


def forget(viewer: Viewer) -> None:
    viewer.page.get_by_role("button", name="Cancel").click()


def shots(viewer: Viewer, shop: Shop, *, whole: bool) -> Iterator[tuple[str, bytes]]:
    """Pictures of all screens, by name."""
    viewer.page.goto(shop.url)
    viewer.page.get_by_role("button", name="Sign in").wait_for()
    yield "sign-in", viewer.page.screenshot()
    viewer.open(shop.link())
    for name, screen in {**screens(SHADOWED, SCALED_BACKEND), **MORE}.items():
        viewer.go(screen)
        settle(viewer)
        if name == "endpoint":
            draft(viewer)
        yield name, viewer.page.screenshot(full_page=whole)
        if name == "endpoint":
            forget(viewer)


def take(browser: Browser, shop: Shop, folder: Path, *, whole: bool) -> None:
    """Write the pictures.

    Args:
        whole: what has to be scrolled to, too.
    """
    for theme in ("light", "dark"):
        for width, size in (("wide", WIDE), ("narrow", PHONE)):
            with looking(browser, size, color_scheme=theme, reduced_motion="reduce") as viewer:
                for name, png in shots(viewer, shop, whole=whole):
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
