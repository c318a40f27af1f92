"""controller: which comparison of a shadow is in force, and which counts are of it."""

from __future__ import annotations

import msgspec
import pytest

from pointsman.controller.desired import apply
from pointsman.controller.history import history_of
from pointsman.controller.shadows import pairs_of, since, watched
from pointsman.controller.state import Desired
from pointsman.model import Comparison
from pointsman.model.comparison import Exact, Json
from pointsman.model.evidence import PairKey, PairTally
from pointsman.telemetry.pairs import CountKey
from pointsman.wire.commands import RollbackTraffic, SetTraffic, ShadowTraffic
from tests.unit.desiring import EMPTY, ROOM, SERVED, done
from tests.unit.planning import applied, served, wanted

JSON = Comparison(Json(ignore=("$.a",)), noise=0.5)


def compare(state: Desired, comparison: Comparison | None, proportion: float = 0.5) -> Desired:
    return done(state, ShadowTraffic("id", "e", "two", proportion, comparison, False))


def comparison_of(state: Desired) -> Comparison | None:
    return state.endpoints["e"].policy.compared.get("two")


def test_a_comparison_gets_a_name_of_its_own() -> None:
    """Other options begin afresh under another name; the same ones, another proportion or split go on (SC1, SC12)."""
    first = compare(SERVED, JSON)
    named = comparison_of(first)
    assert named is not None
    assert msgspec.structs.replace(named, name="", since="") == JSON
    assert named.name.startswith(f"{first.version}-")

    for same in (
        compare(first, JSON, 0.1),
        done(first, ShadowTraffic("id", "e", "two", 0.2)),
        done(first, SetTraffic("id", "e", {"one": 0.5, "two": 0.5})),
    ):
        assert comparison_of(same) == named
    assert compare(first, JSON) is first

    other = compare(first, Comparison(Exact()))
    assert comparison_of(other) != named
    back = comparison_of(compare(other, JSON))
    assert back is not None
    assert back.name != named.name
    rolled_back = comparison_of(done(other, RollbackTraffic("id", "e", None)))
    assert rolled_back is not None
    assert rolled_back.name != named.name
    assert msgspec.structs.replace(rolled_back, name=named.name, since=named.since) == named


def test_the_history_says_what_is_compared() -> None:
    """The history says how a shadow's answers are compared from when on (SC1)."""
    state = compare(SERVED, JSON)
    assert history_of(state)[-1].change.endswith("shadows two 50 %, compares two by json")
    assert history_of(compare(state, None))[-1].change.endswith("compares none")


def test_a_comparison_ends() -> None:
    """With ``"none"``, and with the shadow, a comparison is over; a new shadow has none (SC1)."""
    state = compare(SERVED, JSON)
    ended = compare(state, None)
    assert comparison_of(ended) is None
    assert ended.endpoints["e"].policy.shadows == {"two": 0.5}
    gone = done(state, ShadowTraffic("id", "e", "two", 0.0))
    assert gone.endpoints["e"].policy.compared == {}
    assert comparison_of(done(gone, ShadowTraffic("id", "e", "two", 0.5))) is None


def test_a_configuration_file_leaves_a_comparison_as_it_is() -> None:
    """A file has the shadow and does not say how it is compared: that goes on, until the shadow is gone (SC1)."""
    backends = {"one": wanted(args=b'["1"]'), "two": wanted(args=b'["2"]')}
    alone = served(one=1.0)
    shadowed = msgspec.structs.replace(alone, shadows={"two": 0.5})
    state = compare(applied(EMPTY, backends, {"e": shadowed}), JSON)
    named = comparison_of(state)
    assert named is not None
    assert comparison_of(applied(state, backends, {"e": shadowed})) == named
    assert comparison_of(applied(state, backends, {"e": msgspec.structs.replace(shadowed, route="/e")})) == named
    less = msgspec.structs.replace(shadowed, shadows={"two": 0.1})
    assert comparison_of(applied(state, backends, {"e": less})) == named
    assert comparison_of(applied(state, backends, {"e": alone})) is None


def test_a_bad_proportion_changes_no_comparison() -> None:
    """A proportion that is refused leaves the comparison as it is (SC1)."""
    state = compare(SERVED, JSON)
    with pytest.raises(ValueError, match="between 0 and 1"):
        apply(state, ShadowTraffic("id", "e", "two", 1.5, Comparison(Exact()), False), ROOM, "now")


def test_counts_of_other_code_are_left_out() -> None:
    """After a change of code on either side pairs of the code before do not count (SC12)."""
    state = compare(SERVED, JSON)
    (one,) = watched(state)
    at, other = one.versions["one"], one.versions["two"]
    counts = {
        CountKey("one", at, other, False, "GET /e", "matched"): 5,
        CountKey("one", at, other, False, "GET /f", "mismatched", "value"): 2,
        CountKey("one", at, other, True, "GET /f", "mismatched", "value"): 1,
        CountKey("one", at + 1, other, False, "GET /e", "matched"): 100,
        CountKey("one", at, other + 1, False, "GET /e", "matched"): 100,
        CountKey("one", at, other, False, "", "uncompared", "too_large"): 100,
        CountKey("deleted", 3, other, False, "GET /e", "matched"): 100,
    }
    began = f"{one.comparison.name}/one@{at}/{other}"
    assert pairs_of(one, counts) == {
        PairKey("e", "two", began): PairTally(7, 2),
        PairKey("e", "two", began, True): PairTally(1, 1),
    }


def test_a_report_says_since_when() -> None:
    """A report begins with the comparison, or with the newer code of either side (SC6, SC12)."""
    state = compare(SERVED, JSON)
    (one,) = watched(state)
    assert since(state, one) == one.comparison.since
    newer = msgspec.structs.replace(state.backends["one"], since="9999", version=99)
    changed = msgspec.structs.replace(state, backends={**state.backends, "one": newer})
    (two,) = watched(changed)
    assert since(changed, two) == "9999"
    assert two.code != one.code
