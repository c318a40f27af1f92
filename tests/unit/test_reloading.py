"""What `pointsman run --reload` does when a file was saved."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from pointsman.cli.foreground import Lines
from pointsman.cli.run import Wanted, _Reloading
from pointsman.running.targets import parse_target


class Instance:
    """Stands for the client. The first deployment waits until the test is over, and the file is saved meanwhile."""

    _shut_down = False

    def __init__(self, file: Path) -> None:
        self.deployed = 0
        self.over = threading.Event()
        self._file = file

    def deploy(self, name: str, code: Any, *args: Any) -> None:
        self.deployed += 1
        if self.deployed == 1:
            self._file.write_text("def model(request): return 'newer'\n")
            self.over.wait()


class Trial:
    """Finds that the code can be served."""

    class Code:
        content = ""

    def again(self, superseded: Callable[[], bool]) -> Trial:
        return self

    def code(self) -> Code:
        return self.Code()


def test_a_constructor_that_hangs_does_not_keep_the_next_save_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """My new constructor waits for ever, so I save again: that one is loaded, and the first is not told of (RN3)."""
    file = tmp_path / "reloaded.py"
    file.write_text("def model(request): return 'hangs'\n")
    instance = Instance(file)
    wanted = Wanted(parse_target("reloaded.py", tmp_path), "/", (), {})
    reloading = _Reloading(cast(Any, instance), cast(Any, Trial()), "model", wanted, Lines())
    try:
        reloading._load()
        assert capsys.readouterr().err == ""
        reloading._load()
    finally:
        instance.over.set()
    assert instance.deployed == 2
    assert capsys.readouterr().err.startswith("Loaded anew in ")
