"""Every screen of the page, and when it can be looked at."""

from __future__ import annotations

from tests.browser.viewer import Viewer

BUSY = ".loading, [aria-busy='true']"


def settle(viewer: Viewer) -> None:
    """Wait until the screen has all that it shows at first, and its numbers."""
    viewer.page.locator("h1").first.wait_for()
    # A part may begin to load when another one has come, so this is looked at twice.
    for _ in range(2):
        viewer.page.wait_for_function("busy => !document.querySelector(busy)", arg=BUSY)
        viewer.page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    viewer.page.evaluate("document.fonts.ready")


def screens(endpoint: str, backend: str) -> dict[str, str]:
    """The part of the address behind ``#`` by name, of what shows an endpoint and a backend."""
    return {
        "overview": "#/",
        "endpoint": f"#/endpoint/{endpoint}",
        "backend": f"#/backend/{backend}",
        "history": "#/history",
        "logs": "#/logs",
        "config": "#/config",
    }
