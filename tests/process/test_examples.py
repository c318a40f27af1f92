"""The example programs, run as a user runs them, and what their tables say."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import WAIT_S, family, needs, wait_until

pytestmark = needs("sklearn")

CANARY = Path(__file__).resolve().parents[2] / "examples" / "canary_digits.py"
USERS = 2000
ROW = re.compile(
    r"^ *(?P<asked>\d+)% +(?P<measured>[\d.]+)% +(?P<old>[\d.]+%|-) +(?P<new>[\d.]+%|-) +(?P<moved>[\d.]+)%$", re.M
)
SHADOW = re.compile(r"^shadow: (?P<copied>[\d.]+)% of all .* \(25% asked\), and (?P<right>[\d.]+)%", re.M)


def slack(share: float, count: int) -> float:
    """Five sigma of a share, and what rounding to a tenth of a percent adds."""
    return 5 * math.sqrt(share * (1 - share) / count) + 0.0005 + 1e-9


def test_canary_of_two_real_models(tmp_path: Path) -> None:
    """I run the canary example: every step's share is what was asked, each user moves once, the shadow gets its copies
    and nothing stays behind (TR12, SA7, SH1, IN4)."""
    process = subprocess.Popen(
        [sys.executable, "-u", str(CANARY)], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    output, processes = "", {}
    for line in process.stdout:
        output += line
        if "measured" in line:
            processes = family(process.pid)
    assert process.wait(WAIT_S) == 0, output
    assert len(processes) == 6, "supervisor, controller, HTTP server and three replicas"
    wait_until(lambda: not any(one.is_running() for one in processes.values()), what="every process has ended")
    assert list(tmp_path.iterdir()) == []

    rows = [row.groupdict() for row in ROW.finditer(output)]
    assert [row["asked"] for row in rows] == ["1", "10", "25", "50", "100"]
    for row in rows:
        asked, measured = float(row["asked"]) / 100, float(row["measured"]) / 100
        assert abs(measured - asked) <= slack(asked, USERS), output
    for before, row in pairwise(rows):
        # Who has the new model stays with it, so those who move are those by whom its share has grown. All are rounded.
        grown = float(row["measured"]) - float(before["measured"])
        assert float(row["moved"]) == pytest.approx(grown, abs=0.16), output
    assert (rows[-1]["measured"], rows[-1]["old"]) == ("100.0", "-")
    assert all(float(row["new"].rstrip("%")) > 80 for row in rows[1:])

    shadow = SHADOW.search(output)
    assert shadow is not None, output
    assert abs(float(shadow["copied"]) / 100 - 0.25) <= slack(0.25, USERS * len(rows))
    assert float(shadow["right"]) > 90
    assert [line.split()[2] for line in output.splitlines() if line.startswith("version")] == [
        "created",
        "shadow_traffic",
        *["set_traffic"] * 5,
        "shadow_traffic",
    ]
