"""arguments: names of objects and engines follow one rule."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.arguments import check_engine, check_object_name
from pointsman.exceptions import ServeException
from tests.properties import examples
from tests.unit.sentences import sentence


@pytest.mark.parametrize(
    "name",
    [
        *("a", "a b", " ", "é", "模型", "a" * 200, "a#b", "a:b", ".", "..", "{x}", "-", "%2F", "\N{GRINNING FACE}"),
        *("/", "a/b", "/a", "a/", "../..", "//"),
    ],
)
def test_good_names(name: str) -> None:
    """Any printable name of up to 200 characters is accepted as it is (CL1)."""
    assert check_object_name(name, "backend_tag") is name


@pytest.mark.parametrize("name", ["", "a\n", "a/\n", "\t", "\x00", "\x7f", "a\u200bb", "\ud800", "a" * 201, "\u2028"])
def test_bad_names(name: str) -> None:
    """A name that is empty, too long, or unprintable is refused, shown in a form safe to print (CL1)."""
    with pytest.raises(ValueError) as caught:
        check_object_name(name, "backend_tag")
    text = sentence(caught.value, "backend_tag", "printable")
    assert text.isprintable()
    assert len(text) < 300


@pytest.mark.parametrize("name", [None, 3, b"a", ["a"]])
def test_names_of_another_type(name: Any) -> None:
    """A name that is no str is a TypeError that shows it (CL1)."""
    with pytest.raises(TypeError) as caught:
        check_object_name(name, "endpoint_name")
    sentence(caught.value, "endpoint_name", repr(name))


@examples(200)
@given(name=st.text(max_size=210))
def test_names_follow_one_rule(name: str) -> None:
    """A name is accepted exactly when the rule in the contract says so (CL1)."""
    good = 1 <= len(name) <= 200 and name.isprintable()
    if good:
        assert check_object_name(name, "name") == name
    else:
        with pytest.raises(ValueError):
            check_object_name(name, "name")


def test_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both engines are there, the one that needs Ray says so where that is missing, and others are refused (EN2)."""
    assert check_engine("local") == "local"
    assert check_engine("ray") == "ray"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ServeException, match=r"run in a clone of Pointsman: pip install '\.\[ray\]'"):
        check_engine("ray")
    with pytest.raises(ValueError, match="'rai'"):
        check_engine("rai")
