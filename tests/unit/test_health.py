"""controller.health: what the answers of a replica, and their absence, mean; and what a replica logs of its checks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pointsman.controller.health import Circumstances, examine
from pointsman.controller.replicas import LastHealth, Phase, Replica
from pointsman.model import Allocation, BackendConfigSpec, Reason, Resources
from pointsman.replica.health import Check
from pointsman.replica.usercontext import UserContext
from pointsman.wire.messages import HealthAnswer
from tests.conftest import wait_until

CONFIG = BackendConfigSpec(health_check_period_s=0.5, health_check_timeout_s=1.0, health_check_failures=2)
"""Silent for 2.5 s, or blocked for 2 s: then there must be an excuse."""
GRACE_S = 2.0


def look(
    answer: HealthAnswer | None,
    *,
    silent_s: float = 0.0,
    stopped: bool = False,
    has_started: bool = False,
    declared_s: float = 60.0,
    config: BackendConfigSpec = CONFIG,
) -> Replica:
    replica = Replica(1, "b#1", "b", 1, Allocation(Resources()), since=0.0, phase=Phase.READY)
    replica.health = LastHealth(answered_at=100.0 - silent_s, answer=answer)
    replica.health.warning = examine(
        replica, config, 100.0, lambda: Circumstances(stopped, has_started, declared_s=declared_s)
    )
    return replica


@pytest.mark.parametrize(
    "answer",
    [
        None,
        HealthAnswer(0),
        HealthAnswer(100, patience_s=300.0),
        HealthAnswer(1, blocked_s=1.9),
        HealthAnswer(1, overdue_s=1.9),
        HealthAnswer(0, check_running_s=0.9),
    ],
)
def test_a_well_replica_is_left_alone(answer: HealthAnswer | None) -> None:
    """Replicas that serve, are busy, or are a little late are not sick (F4, F5)."""
    replica = look(answer, silent_s=2.5)
    assert replica.unhealthy is None
    assert replica.health.warning == ""


@pytest.mark.parametrize("last", [None, HealthAnswer(0), HealthAnswer(3, patience_s=300.0)])
def test_a_stopped_process_is_given_up(last: HealthAnswer | None) -> None:
    """A replica that somebody has stopped is replaced after its silence, whatever it was doing (F4)."""
    assert look(last, silent_s=2.5, stopped=True, has_started=True).unhealthy is None
    replica = look(last, silent_s=2.6, stopped=True, has_started=True)
    assert replica.unhealthy is not None
    assert (replica.unhealthy.reason, replica.unhealthy.kill) == (Reason.UNRESPONSIVE, True)
    assert "stopped" in replica.unhealthy.text


def test_silence_without_an_excuse_is_a_wedge() -> None:
    """A process that runs nothing and does not answer is replaced (F5)."""
    replica = look(HealthAnswer(0), silent_s=2.6)
    assert replica.unhealthy is not None
    assert replica.unhealthy.kill


@pytest.mark.parametrize(
    ("last", "has_started", "until_s"),
    [
        (HealthAnswer(1, patience_s=30.0), False, 30.0 + GRACE_S),
        (HealthAnswer(0), True, 60.0 + GRACE_S),
        (None, True, 60.0 + GRACE_S),
        (HealthAnswer(1, patience_s=300.0), True, 300.0 + GRACE_S),
    ],
)
def test_a_call_within_its_time_excuses_silence(last: HealthAnswer | None, has_started: bool, until_s: float) -> None:
    """A call that holds the interpreter is no wedge before its deadline, and one soon after; status says so (F5)."""
    waiting = look(last, silent_s=until_s - 0.1, has_started=has_started)
    assert waiting.unhealthy is None
    assert "busy, not responding" in waiting.health.warning
    assert look(last, silent_s=until_s + 0.1, has_started=has_started).unhealthy is not None


@pytest.mark.parametrize(
    ("patience_s", "sick"), [(None, True), (50.0, False), (0.0, False), (-GRACE_S + 0.1, False), (-GRACE_S, True)]
)
def test_a_blocked_loop(patience_s: float | None, sick: bool) -> None:
    """A loop that user code blocks is a wedge when no call in it may take so long (F5)."""
    replica = look(HealthAnswer(1, blocked_s=GRACE_S, patience_s=patience_s))
    assert (replica.unhealthy is not None) == sick
    assert "event loop has been blocked" in replica.health.warning


def test_sync_code_that_never_returns() -> None:
    """A call that runs on long after everybody has stopped waiting holds the replica's only thread: replaced (F5)."""
    replica = look(HealthAnswer(1, overdue_s=GRACE_S))
    assert replica.unhealthy is not None
    assert replica.unhealthy.reason is Reason.UNRESPONSIVE


@pytest.mark.parametrize(
    ("answer", "sick", "text"),
    [
        ({"check_failures": 1}, False, "check_health failed 1 times: no GPU"),
        ({"check_failures": 2}, True, "no GPU"),
        ({"check_running_s": 1.0}, False, "check_health has run for 1.0 s"),
        ({"check_running_s": 2.0}, True, "check_health has run for 2.0 s"),
        ({"check_failures": 1, "check_running_s": 1.5}, True, "check_health has run"),
    ],
)
def test_the_users_own_check(answer: dict[str, Any], sick: bool, text: str) -> None:
    """A check that fails or hangs twice in a row ends the replica, which may finish what it runs (F36, DP6)."""
    replica = look(HealthAnswer(0, check_error="RuntimeError", check_text="no GPU", check_traceback="tb", **answer))
    assert text in replica.health.warning
    assert (replica.unhealthy is not None) == sick
    if replica.unhealthy is not None:
        assert (replica.unhealthy.reason, replica.unhealthy.kill) == (Reason.HEALTH_CHECK_FAILED, False)
        assert replica.unhealthy.traceback == "tb"


def test_shipped_defaults_find_a_hang_within_15_s() -> None:
    """With the defaults a stopped replica is found in less than 15 s (F4)."""
    assert look(HealthAnswer(0), silent_s=12.0, stopped=True, config=BackendConfigSpec()).unhealthy is not None


def test_a_check_that_begins_to_fail_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The log of a replica has the traceback of its `check_health`, and not one for each look (DP6, H10)."""

    def fails() -> None:
        raise RuntimeError("no GPU")

    loop = asyncio.new_event_loop()
    check = Check(fails, loop, UserContext())
    wait_until(lambda: check.poll(1.0, 1.0).failures >= 3, what="three failures")
    loop.close()
    [record] = [record for record in caplog.records if record.name == "pointsman.replica"]
    assert record.getMessage() == "check_health failed"
    assert "RuntimeError: no GPU" in str(record.exc_text)
