"""The page as somebody sees it who opens it in a browser."""

from __future__ import annotations

import json

from tests.browser.screens import screens, settle
from tests.browser.shop import HOSTILE
from tests.browser.viewer import DESK, PHONE, TABLET


def test_a_link_signs_in_and_leaves_the_address_bar(shop, look):
    """Without a token there is a form. A link fills it in: its token is out of the address bar at once, also where the
    page was open already, and this tab keeps it, and no other (CR5)."""
    page = look().page
    page.goto(shop.url)
    page.get_by_label("Token").wait_for()
    page.goto(shop.link())
    page.get_by_role("heading", name="Overview").wait_for()
    assert shop.tokens["operate"] not in page.url
    page.reload()
    page.get_by_role("heading", name="Overview").wait_for()
    other = page.context.new_page()
    other.goto(shop.url)
    other.get_by_role("button", name="Sign in").wait_for()


def test_a_token_is_typed(shop, look):
    """A token that is nobody's, or could be none, is refused in words; a right one signs in (CR5, AD4)."""
    page = look().page
    page.goto(shop.url)
    for wrong, why in (("5 €", "This is no token"), ("nobody's", "The token is unknown")):
        page.get_by_label("Token").fill(wrong)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_text(why).wait_for()
    page.get_by_label("Token").fill(shop.tokens["view"])
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Overview").wait_for()
    assert page.get_by_text("viewer: view").is_visible()


def test_a_page_without_one_of_its_files_says_so(shop, look):
    """A proxy that passes on another Host has the page's scripts refused. The page is not blank then: it says what a
    proxy has to pass on (AD4)."""
    page = look().page
    page.route("**/js/parts.js", lambda route: route.abort())
    page.goto(shop.url)
    page.get_by_text("pass on Host and Origin").wait_for()


def test_a_hostile_name_is_text(shop, look):
    """An endpoint's name is shown as it is, whatever is in it; a long one is cut and breaks no layout (CR6)."""
    viewer = look()
    viewer.open(shop.link())
    for name in HOSTILE:
        viewer.page.get_by_role("link", name=name, exact=True).click()
        viewer.page.get_by_role("heading", level=1).get_by_text(name, exact=True).wait_for()
        settle(viewer)
        assert viewer.page.title() != "taken"
        assert not viewer.page.get_by_text("cannot be drawn").is_visible()
        assert viewer.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        viewer.page.go_back()


def test_everyone_can_use_every_screen(shop, look):
    """Axe finds nothing on any screen, and in neither theme a text that is hard to read; no screen has to be scrolled
    sideways on a phone, and no table loses its first column on a tablet (CR7)."""
    viewer = look(reduced_motion="reduce")
    viewer.page.goto(shop.url)
    viewer.page.get_by_role("button", name="Sign in").wait_for()
    found = {"sign in": every_way(viewer)}
    viewer.open(shop.link())
    for name, screen in screens("rank", "ranker-v1").items():
        viewer.go(screen)
        settle(viewer)
        found[name] = every_way(viewer)
    said = "\n".join(f"{name}: {finding}" for name, findings in found.items() for finding in findings)
    assert not said, said


def every_way(viewer):
    """What is wrong with a screen: all rules in the light theme, colours in the dark one, and its widths elsewhere."""
    page = viewer.page
    found = viewer.findings()
    page.emulate_media(color_scheme="dark")
    found += viewer.findings("color-contrast", "link-in-text-block")
    page.set_viewport_size(PHONE)
    if (width := page.evaluate("document.documentElement.scrollWidth")) > PHONE["width"]:
        found.append(f"it is {width} pixels wide on a phone")
    page.set_viewport_size(TABLET)
    if page.evaluate("[...document.querySelectorAll('.table td:first-child')].some(cell => cell.offsetWidth < 48)"):
        found.append("a table has no room for its first column on a tablet")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(DESK)
    return found


def canned(shop, endpoints):
    """Events of a stream with so many endpoints as the shop's first."""
    state = shop.client.status()
    one = state["endpoints"]["rank"]
    names = [f"endpoint-{number:04}" for number in range(endpoints)]
    state["endpoints"] = dict.fromkeys(names, one)
    seen = {"per_second": 12.0, "error_share": 0.0, "p50_ms": 1.5, "p99_ms": 9.0, "queued": 0, "backends": {}}
    moving = {
        "time": 0,
        "endpoints": dict.fromkeys(names, seen),
        "backends": {},
    }
    return [("state", state), ("numbers", moving)]


def answer_with(viewer, events):
    """Every stream of this tab has these events, and ends."""
    body = "".join(f"event: {kind}\ndata: {json.dumps(data)}\n\n" for kind, data in events)
    viewer.page.route("**/api/v1/live", lambda route: route.fulfill(content_type="text/event-stream", body=body))


def test_a_thousand_endpoints(shop, look):
    """Of a thousand endpoints only those that are seen are drawn, the last one is found by scrolling, and any by its
    name (CR8)."""
    viewer = look()
    answer_with(viewer, canned(shop, 1000))
    viewer.open(shop.link())
    page = viewer.page
    page.get_by_role("link", name="endpoint-0000").wait_for()
    assert page.evaluate("document.querySelectorAll('*').length") <= 3000
    page.locator(".frame.many").evaluate("table => { table.scrollTop = table.scrollHeight }")
    page.get_by_role("link", name="endpoint-0999").wait_for()
    assert page.evaluate("document.querySelectorAll('*').length") <= 3000
    page.keyboard.press("/")
    page.keyboard.type("point-0123")
    page.get_by_role("link", name="endpoint-0123").wait_for()
    assert page.get_by_role("link", name="endpoint-").count() == 1


def test_a_banner_says_that_the_controller_is_away(shop, look):
    """While no controller answers a banner says so, and the numbers are dimmed (CR9)."""
    viewer = look()
    viewer.page.clock.install()
    viewer.open(shop.link())
    viewer.page.locator("main .num").first.wait_for()
    viewer.page.route("**/api/v1/live", lambda route: route.fulfill(status=503, json={"status": 503}))
    viewer.hide(True)
    viewer.page.clock.fast_forward(5000)
    viewer.hide(False)
    viewer.page.get_by_role("alert").get_by_text("The controller does not answer").wait_for()
    assert viewer.page.locator("main .num.old").count() > 0


def test_a_hidden_tab_asks_for_nothing(shop, look):
    """A tab that nobody sees closes its stream after a few seconds, and opens it again once it is seen (CR8)."""
    viewer = look()
    page = viewer.page
    page.clock.install()
    viewer.open(shop.link())
    settle(viewer)
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/live")):
        viewer.hide(True)
        page.clock.fast_forward(5000)
    with page.expect_request("**/live"):
        viewer.hide(False)


def test_what_cannot_be_had_is_said(shop, look):
    """Where the API fails the page says so, instead of waiting or claiming that there is nothing; and rounding makes no
    share 0 (CR2, CR3)."""
    viewer = look()
    page = viewer.page
    page.route("**/api/v1/history*", lambda route: route.fulfill(status=500, json={"title": "Broken"}))
    page.route("**/api/v1/backends/*", lambda route: route.fulfill(status=500, json={"detail": "x" * 300}))
    viewer.open(shop.link(), "#/backend/ranker-v1")
    page.get_by_role("region", name="Failures").get_by_role("alert").wait_for()
    page.get_by_role("region", name="Changes").get_by_role("button", name="Try again").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    viewer.go("#/history")
    page.get_by_role("region", name="Changes").get_by_text("Broken").first.wait_for()
    assert page.get_by_text("Nothing was changed yet").count() == 0
    exact = page.evaluate("import('/js/slider.js').then(it => it.exact({a: 0.7 - 1e-9, b: 1e-9, c: 0.3}))")
    assert exact == {"a": 0.699999999, "b": 1e-9, "c": 0.3}
