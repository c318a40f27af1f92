"""A person who looks at the page: a tab, and what went wrong in it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

DESK = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
TABLET = {"width": 800, "height": 1000}
WAIT_MS = 60_000.0
"""How long a test waits for what must appear."""

VIOLATIONS = """
globalThis.violations = [];
document.addEventListener('securitypolicyviolation', event =>
  violations.push(`${event.effectiveDirective}: ${event.blockedURI} ${event.sample}`));
"""


class Viewer:
    """A tab with nothing kept from others.

    Args:
        page: of playwright.

    Attributes:
        page: the same.
        errors: uncaught exceptions of the page, and errors in its console.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._note)

    def _note(self, message: Any) -> None:
        # Refused and failed requests are errors there, too: the page itself says those.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def open(self, link: str, screen: str = "") -> None:
        """Follow a link that signs in, then go to a screen, such as ``#/history``."""
        self.page.goto(link)
        self.page.wait_for_url(lambda url: "token" not in url)
        if screen:
            self.go(screen)

    def go(self, screen: str) -> None:
        """To another screen of the page that is open."""
        self.page.evaluate("screen => { location.hash = screen }", screen)

    def hide(self, hidden: bool) -> None:
        """Put another tab in front of this one, as far as the page can tell; or take it away."""
        self.page.evaluate(
            """hidden => {
                Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
                document.dispatchEvent(new Event('visibilitychange'));
            }""",
            hidden,
        )

    def findings(self, *rules: str) -> list[str]:
        """What axe finds on the screen.

        Args:
            rules: by their ids; none for all that it has for WCAG 2.2 AA and for good practice.
        """
        from axe_playwright_python.sync_playwright import Axe

        options = {"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
        found: list[dict[str, Any]] = Axe().run(self.page, options=options).response["violations"]
        return [f"{one['id']}: {node['target']} {node['failureSummary']}" for one in found for node in one["nodes"]]

    def violations(self) -> list[str]:
        """What the page's content security policy has refused."""
        found: list[str] = self.page.evaluate("globalThis.violations")
        return found

    def troubles(self) -> list[str]:
        """All that went wrong in the tab."""
        return [*self.errors, *self.violations()]


@contextlib.contextmanager
def looking(browser: Browser, size: dict[str, int] | None = None, **context: Any) -> Iterator[Viewer]:
    """A viewer, gone at the end.

    Args:
        context: arguments of playwright's ``new_context``, such as ``color_scheme``.
    """
    made = browser.new_context(viewport=size or DESK, **context)  # type: ignore[arg-type]
    made.add_init_script(VIOLATIONS)
    try:
        yield Viewer(made.new_page())
    finally:
        made.close()
