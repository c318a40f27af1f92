"""The page's controls: who moves a slider changes nothing before "Apply", and can take it back after."""

from __future__ import annotations

import os
import re
import signal

import pytest

from tests.browser.shop import SPLIT
from tests.conftest import wait_until


@pytest.fixture(autouse=True)
def as_before(shop):
    """Each test begins with the same split."""
    shop.client.set_traffic("rank", SPLIT)


HARMLESS = re.compile("5 minutes|1 day|As a table|Explain|Show all.*")
"""Buttons that change nothing."""

SEEN = """() => {
    const has = document.activeElement, box = has.getBoundingClientRect();
    const top = document.elementFromPoint(box.x + 5, box.y + box.height / 2);
    return has === document.body || has.contains(top) || top.contains(has);
}"""
"""Whether nothing lies on what has the focus; at the end of the page nothing has it."""


def slider(viewer, backend):
    return viewer.page.get_by_role("slider", name=f"Share of {backend}")


def button(viewer, name):
    return viewer.page.get_by_role("button", name=name, exact=True)


def at_rank(shop, look, role="operate"):
    """A viewer who looks at the endpoint."""
    viewer = look()
    viewer.open(shop.link(role), "#/endpoint/rank")
    viewer.page.get_by_role("heading", name="rank").wait_for()
    return viewer


def weights(shop):
    return shop.client.get_traffic("rank")["weights"]


def applied(shop, wanted):
    wait_until(lambda: weights(shop) == wanted, what=f"the split is {wanted}")


def test_a_canary_gets_more_by_keyboard(shop, look):
    """By keyboard alone: an arrow key moves 1 %, the other backend gets less, the preview says what moves; only Apply
    changes the traffic, under the token's name, and Undo takes it back. The focus is never lost, nor under the header
    (CR2, CR7, AD7)."""
    viewer = at_rank(shop, look)
    viewer.page.clock.install()
    slider(viewer, "ranker-v2").focus()
    for _ in range(3):
        viewer.page.keyboard.press("ArrowRight")
    viewer.page.locator("[aria-label='Share of ranker-v1'][aria-valuetext='92%']").wait_for()
    viewer.page.get_by_text(re.compile(r"\b3(\.0)?% of keys move")).wait_for()
    assert weights(shop) == SPLIT
    button(viewer, "Apply").focus()
    viewer.page.keyboard.press("Enter")
    applied(shop, {"ranker-v1": 0.92, "ranker-v2": 0.08})
    button(viewer, "Apply").wait_for(state="detached")
    assert slider(viewer, "ranker-v2").evaluate("knob => knob === document.activeElement")
    assert shop.client.traffic_history("rank")[-1]["by"] == "token operator"
    button(viewer, "Undo").focus()
    viewer.page.keyboard.press("Enter")
    applied(shop, SPLIT)
    viewer.page.get_by_text(f"Version {shop.client.get_traffic('rank')['version']} is in force").wait_for()
    viewer.page.clock.fast_forward(30_000)
    viewer.page.locator(".toast").wait_for(state="detached")
    viewer.page.locator("main:focus, main :focus").wait_for(state="attached")
    viewer.page.get_by_text("As a table").last.focus()
    for _ in range(20):
        viewer.page.keyboard.press("Shift+Tab")
        assert viewer.page.evaluate(SEEN)


def test_a_slider_is_dragged(shop, look):
    """A slider that is dragged drafts a share; Cancel forgets it, and nothing was changed (CR2)."""
    viewer = at_rank(shop, look)
    knob = slider(viewer, "ranker-v2")
    box = knob.bounding_box()
    y = box["y"] + box["height"] / 2
    viewer.page.mouse.move(box["x"] + 0.07 * box["width"], y)
    viewer.page.mouse.down()
    viewer.page.mouse.move(box["x"] + 0.5 * box["width"], y, steps=3)
    viewer.page.mouse.up()
    assert 45 <= float(knob.get_attribute("aria-valuetext").rstrip("%")) <= 55
    button(viewer, "Cancel").click()
    viewer.page.locator("[aria-label='Share of ranker-v2'][aria-valuetext='5%']").wait_for()
    assert weights(shop) == SPLIT


def test_two_viewers_do_not_overwrite_each_other(shop, look):
    """Who applies a draft after another has changed the traffic is told, keeps the draft, and changes nothing (CR2,
    AD7)."""
    slow, quick = at_rank(shop, look), at_rank(shop, look, "deploy")
    slider(slow, "ranker-v2").press("PageUp")
    slider(quick, "ranker-v2").press("ArrowRight")
    slow.page.get_by_text("of keys move").wait_for()
    button(quick, "Apply").click()
    applied(shop, {"ranker-v1": 0.94, "ranker-v2": 0.06})
    button(slow, "Apply").click()
    slow.page.get_by_text("Not applied").wait_for()
    assert slow.page.get_by_text("token deployer").first.is_visible()
    assert slider(slow, "ranker-v2").get_attribute("aria-valuetext") == "15%"
    assert weights(shop) == {"ranker-v1": 0.94, "ranker-v2": 0.06}


def test_a_view_token_sees_no_controls(shop, look):
    """Whoever may only look sees shares and no control, and the API refuses a change (CR4, AD3)."""
    viewer = at_rank(shop, look, "view")
    viewer.page.get_by_text("95%").first.wait_for()
    for control in ("slider", "button"):
        names = viewer.page.locator("main").get_by_role(control).all_inner_texts()
        assert [name for name in names if not HARMLESS.fullmatch(name)] == []
    assert viewer.page.get_by_label("Add a backend to the split").count() == 0
    refused = shop.api("PUT", "/endpoints/rank/traffic", role="view", json={"weights": {"ranker-v1": 1.0}})
    assert refused.status_code == 403
    assert weights(shop) == SPLIT


def test_the_page_outlives_the_controller(shop, look):
    """The controller is killed while somebody drafts: the page is well again by itself once there is a new one, and the
    draft is applied (CR9, AD1)."""
    viewer = at_rank(shop, look)
    slider(viewer, "ranker-v2").press("ArrowRight")
    viewer.page.get_by_text("of keys move").wait_for()
    os.kill(shop.controller_pid(), signal.SIGKILL)
    wait_until(lambda: shop.api("GET", "/status").status_code == 200, what="the controller answers again")
    viewer.page.get_by_role("alert").filter(has_text="does not answer").wait_for(state="detached")
    button(viewer, "Apply").click()
    applied(shop, {"ranker-v1": 0.94, "ranker-v2": 0.06})
