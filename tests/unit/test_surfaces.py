"""controller.desired: endpoints whose backends are ASGI apps, and those whose are not."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from pointsman.arguments import check_max_body
from pointsman.limits import MAX_BODY
from pointsman.model import ALL_METHODS, ASGI, TargetTraits
from pointsman.wire.commands import Deploy, Pin, SetTraffic, ShadowTraffic
from tests.unit.desiring import EMPTY, create, deploy, done, endpoint, refused

APP = TargetTraits(is_class=False, surface=ASGI)


def app_endpoint(name: str, tag: str, route: str | None, **fields: Any) -> Any:
    return msgspec.structs.replace(endpoint(name, tag, route=route, methods=()), **fields)


def deployed(name: str, traits: TargetTraits, **fields: Any) -> Deploy:
    return msgspec.structs.replace(deploy(name, **fields), traits=traits)


def served() -> Any:
    """An app and another backend, each behind an endpoint of its name."""
    backends = create("app", traits=APP), create("plain")
    return done(EMPTY, *backends, app_endpoint("app", "app", "/app"), endpoint("plain", "plain", route="/plain"))


def test_an_app_gets_all_methods() -> None:
    """The endpoint of an app has no methods of its own; that of another backend has GET (AP1)."""
    state = served()
    assert (state.endpoints["app"].surface, state.endpoints["app"].methods) == (ASGI, (ALL_METHODS,))
    assert state.endpoints["plain"].methods == ("GET",)
    refused(state, app_endpoint("e", "app", "/e", methods=("GET",)), "methods", "['GET']", "ASGI app")
    refused(state, app_endpoint("e", "app", "/e/{x}"), "'/e/{x}'", "prefix")
    refused(state, app_endpoint("e", "app", "/plain"), "'/plain'", "taken")
    refused(state, app_endpoint("e", "app", "/app/"), "'/app/'", "taken")
    refused(EMPTY, deployed("d", APP, route="/d", methods=("PUT",)), "methods", "ASGI app")


@pytest.mark.parametrize(
    "change",
    [
        SetTraffic("id", "app", {"app": 0.5, "plain": 0.5}),
        SetTraffic("id", "plain", {"app": 1.0}),
        ShadowTraffic("id", "app", "plain", 0.5),
        ShadowTraffic("id", "plain", "app", 0.5),
        Pin("id", "app", ("k",), "plain"),
    ],
)
def test_the_backends_of_an_endpoint_are_of_one_kind(change: Any) -> None:
    """No weight, shadow or pin brings an app and another backend together (SU1)."""
    refused(served(), change, "an ASGI app", "called with requests")


def test_a_new_version_is_of_the_old_ones_kind() -> None:
    """An app is not replaced by another backend under its name, nor the other way round (SU1)."""
    state = done(EMPTY, deployed("d", APP, route="/d"))
    assert state.endpoints["d"].surface == ASGI
    refused(state, deployed("d", TargetTraits(is_class=False)), "'d'", "another kind")
    refused(done(EMPTY, deploy("p", route="/p")), deployed("p", APP), "'p'", "another kind")


def test_the_largest_body_of_an_endpoint() -> None:
    """An app takes bodies of any size, another backend what fits a message; a re-deploy keeps the number (AP8)."""
    state = served()
    assert (
        done(state, app_endpoint("e", "app", "/e", max_body_bytes=math.inf)).endpoints["e"].max_body_bytes == math.inf
    )
    refused(state, app_endpoint("e", "plain", "/e", max_body_bytes=math.inf), "inf", str(MAX_BODY))
    state = done(EMPTY, msgspec.structs.replace(deployed("d", APP, route="/d"), max_body_bytes=7))
    assert done(state, deployed("d", APP, code="new")).endpoints["d"].max_body_bytes == 7


def test_what_is_no_largest_body() -> None:
    """A number of bytes is an int of at least 0, `math.inf` or None (AP8)."""
    assert [check_max_body(size) for size in (None, 0, 5, math.inf)] == [None, 0, 5, math.inf]
    with pytest.raises(ValueError, match="-1"):
        check_max_body(-1)
    for wrong in (True, 1.5, "1", -math.inf):
        with pytest.raises(TypeError, match="max_body_bytes"):
            check_max_body(wrong)
