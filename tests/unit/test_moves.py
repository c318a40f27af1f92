"""controller.moves and the log of failures: what a console asks each second, and what it shows of a bad start."""

from __future__ import annotations

import pytest

from pointsman.controller.failures import KEPT, Failed, Failures
from pointsman.controller.moves import moves_of
from pointsman.controller.observed import record_commit, record_exit
from pointsman.controller.replicas import Phase
from pointsman.controller.views import failures_of
from pointsman.engine.orders import ProcessEvent
from pointsman.model import Reason
from tests.unit.reconciling import backend, replica, see, want

TIME = "2026-11-29T10:00:00.000+00:00"


def test_the_mark_changes_with_the_status_and_only_then() -> None:
    """A console asks each second: it gets the same number until something in the status is another one (AD8)."""
    one = replica(1, tag="b")
    observed, desired = see(one), want(backend(tag="b"))

    def mark(around: tuple[str, ...] = ()) -> int:
        return moves_of(desired, observed, around, 10.0, TIME).mark

    seen = [mark()]
    assert mark() == seen[0]

    def changed() -> bool:
        seen.append(mark())
        return len(set(seen)) == len(seen)

    one.pid = 77
    assert changed()
    one.phase = Phase.LEAVING
    assert changed()
    one.health.warning = "it has not answered for 2 s"
    assert changed()
    one.health.answered_at = 99.0
    assert not changed()
    seen.pop()
    observed.failures["b"] = Failures(count=3)
    assert changed()
    assert mark(("an ingress",)) not in seen


def test_the_last_failures_of_a_backend_are_kept() -> None:
    """A replica dies again and again: the last ten are shown with time, replica, reason and text, also when the next
    one serves, and go with the backend (CR3)."""
    spec = backend(tag="b")
    desired = want(spec)
    observed = see()
    for number in range(1, KEPT + 3):
        observed.replicas[number] = replica(number, tag="b")
        record_exit(observed, desired, ProcessEvent("exited", number, exit="exit code 1"), float(number))
    observed.failures.clear()  # it serves again
    shown = failures_of(desired, observed, "b", float(KEPT + 2), TIME).failures
    assert len(shown) == KEPT
    assert shown[-1].time == TIME
    assert shown[0].time == "2026-11-29T09:59:51.000+00:00"
    assert shown[-1].reason is Reason.REPLICA_DIED
    assert shown[-1].replica == replica(KEPT + 2, tag="b").tag
    assert "exit code 1" in shown[-1].text
    record_commit(observed, desired, want(), [], 99.0)
    assert not observed.past
    with pytest.raises(ValueError, match="'b' does not exist"):
        failures_of(want(), observed, "b", 0.0, TIME)


def test_a_failure_of_pages_of_text_is_cut() -> None:
    """User code raises an error of a megabyte: ten of these still fit one answer."""
    observed, desired = see(), want(backend(tag="b"))
    observed.past.add("b", Failed(0.0, "b#1", Reason.CONSTRUCTOR_FAILED, "x" * 1_000_000, "y" * 1_000_000))
    (shown,) = failures_of(desired, observed, "b", 0.0, TIME).failures
    assert len(shown.text) + len(shown.traceback) < 200_000
