"""One Chromium, one instance and its console for the folder; each test has tabs of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser.chromium import chromium_path, launched
from tests.browser.shop import Shop, calls, opened
from tests.browser.viewer import Viewer, looking
from tests.conftest import leaves_no_process

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="package")
def shop() -> Iterator[Shop]:
    """The instance that the page shows, with calls that go on."""
    if chromium_path() is None:
        pytest.skip("chromium is not there (Debian: make chromium)")
    with leaves_no_process(), opened() as shop, calls(f"{shop.client.http_address}/rank"):
        yield shop


@pytest.fixture(scope="package")
def browser(shop: Shop) -> Iterator[Browser]:
    """A browser without a window."""
    with launched() as browser:
        yield browser


@pytest.fixture
def look(browser: Browser) -> Iterator[Callable[..., Viewer]]:
    """Gives viewers, whose tabs are closed at the end; nothing may have gone wrong in them."""
    with contextlib.ExitStack() as tabs:
        viewers: list[Viewer] = []

        def new(**context: object) -> Viewer:
            viewers.append(tabs.enter_context(looking(browser, **context)))  # type: ignore[arg-type]
            return viewers[-1]

        yield new
        assert [viewer.troubles() for viewer in viewers] == [[]] * len(viewers)
