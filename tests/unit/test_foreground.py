"""What `pointsman run` and `start` say when they fail or end."""

from __future__ import annotations

import errno
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer

from pointsman.cli import foreground
from pointsman.cli.foreground import Foreground, with_other_port
from pointsman.cli.lines import Lines
from pointsman.cli.options import Given
from pointsman.cli.run import exit_codes
from pointsman.exceptions import ServeException
from pointsman.running.trial import CodeError
from pointsman.wire.commands import Status


class Instance:
    """Stands for the client."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir

    def _status(self) -> Status:
        return Status(1, 1, "n", "127.0.0.1", 81, {}, {}, (), state_dir=self._state_dir)

    def stop(self) -> None: ...

    def _after_end(self) -> None: ...


@pytest.mark.parametrize(
    ("runs", "state_dir", "said"),
    [
        (True, "", "Instance 'n' has stopped.\n"),
        (True, "/s", "Its state is kept in /s; start it again with: pointsman start "),
        (False, "", "start a new one with: pointsman start "),
    ],
)
def test_ctrl_c_says_what_is_left(runs: bool, state_dir: str, said: str, capsys: pytest.CaptureFixture[str]):
    """Ctrl-C ends a `run` in few words: an empty instance is no way to have the model back (RN1)."""
    front = Foreground(Lines())
    with front.stopped_by_signals(cast(Any, Instance(state_dir)), "n", None, runs=runs):
        raise KeyboardInterrupt
    assert said in capsys.readouterr().out


def test_a_name_in_use_says_how_another_is_given(monkeypatch: pytest.MonkeyPatch):
    """A second ``pointsman run`` is told of ``--name``, and how the first one is ended (IN6)."""
    monkeypatch.setattr(foreground, "local_folder", lambda *_: SimpleNamespace(is_alive=lambda: True))
    with pytest.raises(ServeException, match=r"'default' is running; .* with --name, or end .*: pointsman stop$"):
        foreground.start_instance("default", Given({}, {}), bound=True, address=None)


def test_a_port_in_use_says_which_option_gives_another():
    """A port is in use, with `--local` as well: I am told the option for another; other errors stay (RN1)."""
    taken = OSError(errno.EADDRINUSE, "cannot listen on port 9090: in use")
    assert "with --http-port, 0" in str(with_other_port(taken, Given({}, {})))
    assert "with --metrics-export-port, 0" in str(with_other_port(taken, Given({}, {"metrics_export_port": 9090})))
    other = OSError(errno.EACCES, "not allowed")
    assert with_other_port(other, Given({}, {})) is other


def test_code_that_fails_is_told_of_in_one_json_line(capsys: pytest.CaptureFixture[str]):
    """My import fails in a container: the last line of its log has the error, and the traceback beside it (PK5)."""
    told = "Traceback (most recent call last):\n  File ...\nModuleNotFoundError: No module named 'torch'"
    with pytest.raises(typer.Exit) as ended, exit_codes(Lines("json")):
        raise CodeError(told)
    line = json.loads(capsys.readouterr().out)
    assert ended.value.exit_code == 1
    assert (line["message"], line["exception"]) == ("ModuleNotFoundError: No module named 'torch'", told)
