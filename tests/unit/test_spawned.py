"""engine.process and cli.main: processes as they start, and what a Ctrl-C does to them then."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from pointsman.cli import main as command
from pointsman.cli.process import Interrupted
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


def test_an_interrupt_before_a_command_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the command still reads its options: exit code 130, and no traceback."""
    for prepares in ("become_init", "give_standard_streams", "let_signals_unwind", "ignore_signals"):
        monkeypatch.setattr(command, prepares, lambda: None)

    def interrupted(_: object) -> None:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(command, "app_for", interrupted)
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 130
