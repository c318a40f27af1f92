"""Runs a program as a user would: a script of its own, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM_TIMEOUT_S = 200.0


def run_program(text: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``text`` as a script and return how it ended. OMP_NUM_THREADS is not inherited, only given."""
    script = folder / "example.py"
    script.write_text(text)
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT_S,
    )


def assert_succeeded(ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 0, f"exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
