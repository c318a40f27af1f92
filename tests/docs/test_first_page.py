"""The start of the documentation, docs/README.md: from an empty folder to a model of one's own behind HTTP."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest

from tests.conftest import needs
from tests.docs.test_examples import BLOCK, ROOT
from tests.docs.test_readme import COMMAND_TIMEOUT_S, PORT, SESSION, TYPED, Shell

pytestmark = [
    needs("sklearn"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed, and the page uses it"),
]

PAGE = (ROOT / "docs/README.md").read_text()


def saved(folder: Path) -> None:
    """Save the first two scripts of the page by the names that it gives them."""
    for name, code in zip(("train.py", "iris.py"), BLOCK.findall(PAGE), strict=False):
        assert re.search(rf"[Ss]ave this as `{re.escape(name)}`[^`]*", PAGE)
        (folder / name).write_text(code)


def test_a_model_of_ones_own_in_five_minutes(tmp_path: Path) -> None:
    """Whoever types what the page says has a model with weights behind HTTP, and sees what is printed (RN1, RN2)."""
    saved(tmp_path)
    shell = Shell(tmp_path)
    trained = shell("python train.py")
    assert trained.returncode == 0, trained.stderr
    (run, printed), (ask, answer) = (typed for session in SESSION.findall(PAGE) for typed in TYPED.findall(session))
    running = shell.start(f"exec {run} --port 0 --metrics-export-port 0 --console-port -1")
    assert running.stdout is not None
    try:
        shown = [line for line in printed.splitlines(keepends=True) if not line.startswith(" Console")]
        said = [running.stdout.readline() for _ in shown]
        (port,) = re.findall(r"is at http://127\.0\.0\.1:(\d+)/$", said[0], re.MULTILINE)
        assert said == [line.replace(f":{PORT}", f":{port}") for line in shown]
        assert shell(ask.replace(f":{PORT}", f":{port}")).stdout == answer.strip()
    finally:
        running.send_signal(signal.SIGINT)
    assert running.wait(COMMAND_TIMEOUT_S) == 0


def test_both_first_pages_have_the_same_model() -> None:
    """The model of one's own is the same in README.md, which leads there for the rest."""
    _, model, *_ = BLOCK.findall(PAGE)
    assert model in (ROOT / "README.md").read_text()
    assert "docs/README.md#your-model-in-five-minutes" in (ROOT / "README.md").read_text()
