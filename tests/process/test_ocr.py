"""The example that composes three neural networks, run as a user runs it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.example_pages import ROOT, printed_on_page

NEEDS = ("cv2", "numpy", "onnxruntime", "PIL", "rapidocr")
TOO_SHORT = 10
"""Index of the line that is one short word upside down: what is read there depends on the batch it is in."""


def test_example_reads_a_screenshot(tmp_path: Path) -> None:
    """I run the example: detection, orientation and recognition, each a backend with its own scale, read a screenshot
    line by line, upside down too, as its page shows (CO1, CO2, CO3, BA9)."""
    for package in NEEDS:
        if importlib.util.find_spec(package) is None:  # not imported: that takes seconds, and a process runs it
            pytest.skip(f"the example needs {package}, which is not installed here")
    command = [sys.executable, str(ROOT / "examples" / "ocr_pipeline.py")]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    read, shown = ended.stdout.splitlines(), printed_on_page("ocr_pipeline")
    del read[TOO_SHORT], shown[TOO_SHORT]
    assert read == shown
    assert "Error" not in ended.stderr
    assert not list(tmp_path.iterdir())
