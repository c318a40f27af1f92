"""``pointsman demo``, run as a user runs it after installation."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.conftest import WAIT_S, family, needs, wait_until
from tests.properties import PROFILE

pytestmark = needs("sklearn")

PROGRAM = str(Path(sys.executable).with_name("pointsman"))
ROW = re.compile(
    r"(?P<backend>digits-\w+) +(?P<requests>\d+) +(?P<asked>[\d.]+) % +(?P<measured>[\d.]+) % +(?P<accuracy>[\d.]+) %"
    r" +(?P<p50>[\d.]+) +(?P<p99>[\d.]+)"
)
DEMO_S = 200.0


def rows_of(output: str) -> dict[str, dict[str, float]]:
    """The table's figures, by backend."""
    return {
        row["backend"]: {key: float(value) for key, value in row.groupdict().items() if key != "backend"}
        for row in ROW.finditer(output)
    }


def begin_demo(*options: str, until: str) -> tuple[subprocess.Popen[str], str]:
    """Start a demo and read what it prints, up to a line that holds the given words."""
    process = subprocess.Popen(
        [PROGRAM, "demo", "--port", "0", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if until in line:
            return process, output
    pytest.fail(f"the demo ended without {until!r}: {output}{process.communicate()[1]}")


def assert_interrupted(process: subprocess.Popen[str], exit_code: int) -> None:
    """Ctrl-C ends the demo and all its processes, without a traceback."""
    processes: dict[int, psutil.Process] = family(process.pid)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=WAIT_S)
    assert process.returncode == exit_code
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    wait_until(lambda: not any(p.is_running() for p in processes.values()), what="every process has ended")


def assert_measured(output: str) -> None:
    """Two real models shared an endpoint, and the better one was better."""
    rows = rows_of(output)
    assert set(rows) == {"digits-linear", "digits-svm"}
    assert rows["digits-svm"]["accuracy"] > rows["digits-linear"]["accuracy"] > 80
    assert sum(row["requests"] for row in rows.values()) == 899
    assert {row["asked"] for row in rows.values()} == {50}
    assert all(40 < row["measured"] < 60 for row in rows.values())
    assert all(0 < row["p50"] <= row["p99"] for row in rows.values())


@pytest.mark.skipif(PROFILE == "gate", reason="the one that is kept measures the same; make test-long has both")
def test_demo_measures_two_models_and_ends() -> None:
    """One command shows me the main job, and ends (TR1, IN4)."""
    done = subprocess.run([PROGRAM, "demo", "--port", "0"], capture_output=True, text=True, timeout=DEMO_S, check=False)
    assert done.returncode == 0, done.stderr
    assert_measured(done.stdout)


def test_kept_demo_answers_the_curl_line_until_interrupted() -> None:
    """I see which of two models is better, keep the demo, paste its curl line, look at it from a second terminal, and
    end it with Ctrl-C (TR1, IN15)."""
    process, output = begin_demo("--keep", until="Serving on")
    assert_measured(output)
    (line,) = [line for line in output.splitlines() if line.startswith("curl ")]
    url, body = shlex.split(line)[2], shlex.split(line)[-1]
    shown = int(re.findall(r"shows a (\d)", output)[0])
    answer = httpx.post(url, content=body, headers={"content-type": "application/json"}, timeout=WAIT_S).json()
    assert (answer["digit"], answer["backend"] in rows_of(output)) == (shown, True)
    status = subprocess.run([PROGRAM, "status", "--name", "demo", "--json"], capture_output=True, check=True)
    assert set(json.loads(status.stdout)["backends"]) == {"digits-linear", "digits-svm"}
    assert_interrupted(process, 0)


def test_interrupted_demo_leaves_nothing() -> None:
    """I change my mind while replicas start: Ctrl-C ends all of it at once (IN4)."""
    process, _ = begin_demo(until="Starting 2 replicas")
    assert_interrupted(process, 130)


def test_demo_without_scikit_learn_says_what_to_install() -> None:
    """I installed without the extra: one line tells me the command (no instance is started for that)."""
    code = "import sys; sys.modules['sklearn'] = None; from pointsman.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "demo"], capture_output=True, text=True, timeout=WAIT_S)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "pointsman: the demo needs sklearn; run in a clone of Pointsman: pip install '.[demo]'\n"


def test_demo_says_that_its_port_is_in_use() -> None:
    """Something else has port 8000: one line names it, before anything is trained (IN1)."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run([PROGRAM, "demo", "--port", port], capture_output=True, text=True, timeout=WAIT_S)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"pointsman: .*{port}.*\n", done.stderr)
