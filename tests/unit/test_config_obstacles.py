"""What the controller would refuse of a plan is found before, from the plan and from what there is."""

from __future__ import annotations

import pytest

from pointsman.configfile.obstacles import obstacles
from pointsman.model import ASGI, Pins, TargetTraits, TrafficPolicy
from pointsman.wire.apply import Marks
from tests.unit.test_config_plan import backend, declared, endpoint, outcome, wanted

BY_HAND = {"endpoint/other": Marks("", {})}


def texts(*args, **given) -> list[str]:
    there = declared(*args, **given)
    return [one.text for one in obstacles(outcome(wanted(), there), there)]


def test_a_route_that_the_endpoint_of_another_has():
    """``diff`` says whose route it is, at the route in the file, as ``apply`` would be refused (CF5, HT2)."""
    there = declared([backend()], [endpoint("other", route="/e")], BY_HAND)
    [found] = obstacles(outcome(wanted(), there), there)
    assert found.keys == ("endpoints", "e", "route")
    assert found.text == (
        "route '/e' of endpoint 'e' is taken by endpoint 'other', which is not in this file; give it another"
    )


def test_the_prefix_of_two_apps():
    """Two apps with one prefix are found, too, however it is written; a function may have a route below (CF5)."""
    app = backend(traits=TargetTraits(is_class=True, surface=ASGI))
    for surface, clashes in ((app, True), (backend(), False)):
        there = declared([surface], [endpoint("other", route="/e/")], BY_HAND)
        assert bool(obstacles(outcome(wanted(), there), there)) is clashes


def test_a_route_that_is_free_by_then():
    """A route of an endpoint that the same file deletes may be given to another one (CF7)."""
    assert texts([backend()], [endpoint("gone", route="/e")]) == []
    assert texts([backend()], [endpoint()]) == []


@pytest.mark.parametrize("how", ["traffic", "shadow", "pin"])
def test_a_backend_that_the_endpoint_of_another_uses(how):
    """A backend that is gone from the file stays, and ``diff`` says who uses it (CF5, CF11)."""
    policy = TrafficPolicy(2, {"b": 1.0} if how == "traffic" else {"a": 1.0}, {"b": 0.5} if how == "shadow" else {})
    other = endpoint("other", route="/other", policy=policy)
    pins = {"other": Pins({"anna": "b"})} if how == "pin" else {}
    assert texts([backend(), backend("b")], [endpoint(), other], BY_HAND, pins=pins) == [
        "backend 'b' has gone from this file and cannot be deleted: endpoint 'other' uses it in its traffic, shadows or"
        " pins"
    ]
    assert texts([backend(), backend("b")], [endpoint(), endpoint("other", route="/other")], BY_HAND) == []
