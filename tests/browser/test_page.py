"""The page as somebody sees it who opens it in a browser."""

from __future__ import annotations


def test_the_page_breaks_no_rule_of_its_own(shop, look):
    """The page opens without an error, and asks for nothing that its content security policy forbids (CR6)."""
    viewer = look()
    viewer.page.goto(shop.link())
    assert viewer.troubles() == []
