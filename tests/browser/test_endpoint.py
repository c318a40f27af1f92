"""The other cards of an endpoint's screen: shadows, who answers a key, pins, rollouts and history."""

from __future__ import annotations

import pytest

from tests.browser.shop import SPLIT
from tests.conftest import wait_until


@pytest.fixture(autouse=True)
def as_before(shop):
    """Each test begins with the same split and no shadow, and leaves them so."""
    reset(shop.client)
    yield
    reset(shop.client)


def reset(client):
    client.set_traffic("rank", SPLIT)
    client.shadow_traffic("rank", "ranker-v3", 0)


@pytest.fixture
def page(shop, look):
    """The endpoint's screen, as somebody sees it who may steer."""
    viewer = look()
    viewer.open(shop.link(), "#/endpoint/rank")
    viewer.page.get_by_role("table", name="History of the traffic").wait_for()
    return viewer.page


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def test_a_shadow_is_tried_and_taken_away(shop, page):
    """Who gives a backend copies of calls sees it beside what users get, changes its share, and takes it away; Undo
    brings it back (CR3, CR2)."""
    page.get_by_label("Copy calls to a backend").select_option("ranker-v3")
    field = page.get_by_label("Percent copied to ranker-v3")
    field.fill("25")
    field.press("Enter")
    wait_until(lambda: shadows(shop) == {"ranker-v3": 0.25}, what="a quarter of the calls is copied")
    page.get_by_role("table", name="Shadows").get_by_text("What users get").wait_for()
    press(page, "Remove shadow ranker-v3")
    wait_until(lambda: shadows(shop) == {}, what="no call is copied")
    page.get_by_text("no copies").last.wait_for()
    press(page, "Undo")
    wait_until(lambda: shadows(shop) == {"ranker-v3": 0.25}, what="a quarter of the calls is copied again")


def shadows(shop):
    return shop.client.get_traffic("rank")["shadows"]


def test_a_key_is_explained_and_pinned(shop, page):
    """The screen says which backend answers a key and why, now and under an earlier version; a key that is pinned goes
    where the pin says (CR3)."""
    first = shop.client.traffic_history("rank")[0]["version"]
    page.get_by_label("Key", exact=True).fill("user-1")
    page.get_by_label("Compare with").select_option(str(first))
    page.get_by_text(f"In version {first}: ranker-v1").wait_for()
    page.get_by_text("Pin keys to a backend").click()
    page.get_by_label("Keys, with commas between").fill("user-1, user-2")
    page.get_by_label("Backend", exact=True).select_option("ranker-v3")
    press(page, "Pin")
    page.get_by_text("2 pinned keys").wait_for()
    assert shop.client.explain("rank", shard_key="user-1")["backend"] == "ranker-v3"
    for key in ("user-1", "user-2"):
        press(page, f"Unpin {key}")
    wait_until(lambda: not shop.client.get_traffic("rank")["pins"], what="no key is pinned")


def test_a_rollout_is_paused_and_aborted(shop, page):
    """A rollout shows its steps and gates; who pauses it sees that it waits, and who aborts it is asked first (RO1,
    RO10)."""
    shop.client.start_rollout("rank", "ranker-v2", steps=[0.2, 1.0], hold_s=3600)
    card = page.get_by_role("region", name="Rollout")
    card.get_by_text("error rate").wait_for()
    press(page, "Pause")
    card.get_by_role("button", name="Resume").wait_for()
    assert shop.client.rollout("rank")["state"] == "paused"
    press(page, "Abort…")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert shop.client.rollout("rank")["state"] == "paused"
    press(page, "Abort…")
    page.get_by_role("dialog").get_by_role("button", name="Abort rollout").click()
    card.get_by_text("aborted").first.wait_for()
    assert shop.client.get_traffic("rank")["weights"] == SPLIT


def test_an_earlier_split_is_back_by_one_press(shop, page):
    """The history rolls back to any version that it shows (CR1)."""
    version = shop.client.get_traffic("rank")["version"]
    shop.client.set_traffic("rank", {"ranker-v1": 1.0})
    press(page, f"Roll back to version {version}")
    wait_until(lambda: shop.client.get_traffic("rank")["weights"] == SPLIT, what="the split is back")
