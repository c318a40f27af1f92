"""The example of rollouts that go back by themselves, run as a user runs it, and what it says of its users."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.properties import PROFILE

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "guarded_rollout.py"
ENDED = re.compile(
    r"^  (?P<state>\w+): (?P<reason>.+)\n"
    r"  users: (?P<answers>\d+) answers, (?P<exposed>\d+) of them by (?P<tag>\w+),"
    r" of which (?P<failed>\d+) failed and (?P<slow>\d+) were slow$",
    re.M,
)
LATE = 20
"""Requests that may be on their way when a rollout ends."""


@pytest.mark.timeout(900)
@pytest.mark.skipif(PROFILE == "gate", reason="takes five minutes: make test-long has it")
def test_bad_models_go_back_and_a_sound_one_is_promoted(tmp_path: Path) -> None:
    """I run the example: the model that fails and the slow one are turned back for what they do, few users met them,
    and the sound one has all traffic (RO1, RO6, RO7, RO9)."""
    pytest.importorskip("sklearn")
    done = subprocess.run([sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    fails, slow, new = (found.groupdict() for found in ENDED.finditer(done.stdout))
    assert (fails["tag"], fails["state"], slow["tag"], slow["state"]) == ("fails", "rolled_back", "slow", "rolled_back")
    assert ": error_rate " in fails["reason"]
    assert ": latency " in slow["reason"]
    assert (new["tag"], new["state"]) == ("new", "promoted")
    for one in (fails, slow):
        told = re.search(r"after (\d+) requests", one["reason"])
        assert told is not None
        assert int(told[1]) - LATE <= int(one["exposed"]) <= int(told[1]) + LATE, "those that users saw were counted"
    assert 1 <= int(fails["failed"]) <= int(fails["exposed"]) / 10
    assert (slow["failed"], new["failed"]) == ("0", "0")
