"""The example that composes three neural networks, run as a user runs it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import WAIT_S

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "ocr_pipeline.py"
NEEDS = ("cv2", "numpy", "onnxruntime", "PIL", "rapidocr")


def test_example_reads_what_it_has_drawn(tmp_path: Path) -> None:
    """I run the example: detection, orientation and recognition, each a backend with its own scale, read the drawn
    image line by line, the one on its head too, and many at once give the same (CO1, CO2, CO3, BA9)."""
    for package in NEEDS:
        if importlib.util.find_spec(package) is None:  # not imported: that takes seconds, and a process runs it
            pytest.skip(f"the example needs {package}, which is not installed here")
    command = [sys.executable, str(EXAMPLE), "--images", "4"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    read, replicas, rate = ended.stdout.splitlines()
    assert read == 'read: ["POINTSMAN","sets the points","for 4711 trains","on the right track"]'
    assert replicas == "replicas: detector 1, orientation 1, reader 2, pipeline 1"
    assert rate.endswith("all alike: True")
    assert "Error" not in ended.stderr
    assert not list(tmp_path.iterdir())


def test_example_says_what_to_install(tmp_path: Path) -> None:
    """I have not installed the models: one sentence tells me how (no instance is started for that)."""
    hidden = "import runpy, sys; sys.modules['onnxruntime'] = None"
    code = f"{hidden}; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=WAIT_S)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "this example needs onnxruntime: pip install 'rapidocr>=3.10,<4' onnxruntime\n"
