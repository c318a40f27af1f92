"""The screens of a backend, of logs and of the configuration, as somebody uses them."""

from __future__ import annotations

import os
import signal

import httpx
import pytest

from tests.conftest import wait_until

BACKEND = "ranker-v3"
QUEUE = "max_queued_queries"

FILE = """\
pointsman: 1
name: shop
endpoints:
  rank: {route: /rank, methods: [GET, POST], traffic: {ranker-v1: 50%, ranker-v2: 50%}}
backends:
  ranker-v1: {code: "shop:Ranker"}
  ranker-v2: {code: "shop:Ranker"}
"""


@pytest.fixture
def standing(shop):
    """Its configuration is as before at the end."""
    yield
    shop.client.update_backend_config(BACKEND, {QUEUE: 1000})


def button(viewer, name):
    return viewer.page.get_by_role("button", name=name, exact=True)


def at_backend(shop, look, role="operate"):
    """A viewer who looks at the backend, and has seen its configuration."""
    viewer = look()
    viewer.open(shop.link(role), f"#/backend/{BACKEND}")
    viewer.page.get_by_text(QUEUE, exact=True).wait_for()
    return viewer


def queue_of(shop):
    return shop.client.get_backend_config(BACKEND).max_queued_queries


@pytest.mark.usefixtures("standing")
def test_a_backend_is_configured_by_one_at_a_time(shop, look):
    """A form sends the fields that were changed. Who was slower than another is told, keeps what was typed, sees the
    other's values, and can send it then (AD7)."""
    slow, quick = at_backend(shop, look), at_backend(shop, look)
    for viewer, number in ((slow, "700"), (quick, "800")):
        button(viewer, "Edit").click()
        viewer.page.get_by_label(QUEUE).fill(number)
        viewer.page.get_by_text("1 field changed").wait_for()
    button(quick, "Apply").click()
    wait_until(lambda: queue_of(shop) == 800, what="the first change is in force")
    button(slow, "Apply").click()
    slow.page.get_by_text("Somebody has changed it meanwhile").wait_for()
    assert queue_of(shop) == 800
    assert slow.page.get_by_label(QUEUE).input_value() == "700"
    button(slow, "Show that").click()
    button(slow, "Apply").click()
    wait_until(lambda: queue_of(shop) == 700, what="the second change is in force")


def test_a_value_that_cannot_be_is_refused_in_words(shop, look):
    """A field that is refused stays as it was; the page says why, and keeps what was typed (AD6)."""
    viewer = at_backend(shop, look)
    button(viewer, "Edit").click()
    viewer.page.get_by_label(QUEUE).fill("many")
    button(viewer, "Apply").click()
    viewer.page.get_by_text("max_queued_queries of BackendConfig is 'many'").wait_for()
    assert queue_of(shop) == 1000


def test_who_may_only_look_edits_no_backend(shop, look):
    """Whoever has a view token sees the configuration of a backend and no button to change it (CR4)."""
    viewer = at_backend(shop, look, "view")
    assert viewer.page.locator("main").get_by_role("button", name="Edit").count() == 0
    assert viewer.page.locator("main input").count() == 0


def test_a_replica_that_died_is_explained(shop, look):
    """A backend's screen says of which replica, when and why it failed (CR3)."""
    viewer = at_backend(shop, look, "view")
    replica = shop.client.status()["backends"][BACKEND]["replicas"][0]
    os.kill(replica["pid"], signal.SIGKILL)
    failures = viewer.page.get_by_role("region", name="Failures")
    failures.get_by_text(replica["tag"], exact=True).wait_for()
    assert failures.get_by_text("killed by SIGKILL").count() == 1


def test_logs_are_followed_as_text(shop, look):
    """Lines of the log come by themselves; control characters and markup in them are text (CR3, CR6)."""
    viewer = look()
    viewer.open(shop.link("view"), "#/logs?text=no such item")
    httpx.get(f"{shop.client.http_address}/rank", params={"fail": "1"})
    viewer.page.get_by_text(r"no such item: \x1b[31m<b>red</b>").first.wait_for()


def test_a_file_is_compared_with_what_runs(shop, look):
    """A configuration file that is pasted shows how what runs differs from it; nothing is applied (CR1, CF5)."""
    before = shop.client.get_traffic("rank")["weights"]
    viewer = look()
    viewer.open(shop.link("deploy"), "#/config")
    viewer.page.get_by_label("Configuration file").fill(FILE)
    button(viewer, "Compare").click()
    changes = viewer.page.locator("ul.boxed li", has_text="endpoint/rank")
    changes.get_by_text("ranker-v1 50%, ranker-v2 50%").wait_for()
    viewer.page.get_by_label("Configuration file").fill("pointsman: 1\nbackends: {x: {cod: 1}}\n")
    button(viewer, "Compare").click()
    viewer.page.get_by_text("did you mean 'code'?").wait_for()
    assert shop.client.get_traffic("rank")["weights"] == before
