"""engine.process: processes of an instance, as their parent starts them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from pointsman.engine.process import spawn

EXIT_S = 60


@pytest.mark.parametrize("role", ["ingress", "controller", "replica"])
def test_an_interrupt_during_the_imports(role: str, tmp_path: Path) -> None:
    """Ctrl-C right after the start of an instance prints no traceback of processes that still import (RN1)."""
    (tmp_path / "sitecustomize.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    child, output = spawn(sys.executable, role, 0, b"", env={"PYTHONPATH": path}, fds=())
    with open(output, "rb") as said:
        assert said.read() == b""
    assert child.process.wait(EXIT_S) == -signal.SIGINT
    assert child.reap() == "killed by SIGINT"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
