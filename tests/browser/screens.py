"""Every screen of the page, and when it can be looked at."""

from __future__ import annotations

from tests.browser.viewer import Viewer

BUSY = "[aria-busy=true]"


def settle(viewer: Viewer) -> None:
    """Wait until the screen has all that it shows at first, and its numbers."""
    viewer.page.locator("h1").first.wait_for()
    viewer.page.locator(BUSY).first.wait_for(state="hidden")
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
