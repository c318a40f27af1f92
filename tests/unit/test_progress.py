"""progress: one line in a terminal, nothing elsewhere."""

from __future__ import annotations

import io

import pytest

from pointsman.progress import ProgressLine
from pointsman.wire.commands import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("is_terminal", [True, False])
def test_how_far_replicas_have_come(monkeypatch, is_terminal):
    """Someone who waits at a terminal sees how many replicas are ready, until it is done, and never on one line with
    what others print; a log file sees nothing."""
    screen = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    with ProgressLine() as line:
        line.show(Progress("digits", 3, 10))
        line.show(Progress("digits", 10, 10))
        before_others_print = screen.getvalue()
    shown = screen.getvalue()
    if is_terminal:
        assert "digits" in shown
        assert "3/10 replicas ready" in shown
        assert "10/10 replicas ready" in shown
        assert before_others_print.endswith("\r")
        assert shown.endswith("\r\x1b[K")
    else:
        assert shown == ""


def test_a_terminal_without_unicode_gets_a_bar_of_ascii(monkeypatch):
    """Where the terminal's encoding has no blocks, the bar is one line of signs that it has, not of escapes (RN1)."""
    written = io.BytesIO()
    screen = io.TextIOWrapper(written, encoding="latin-1", errors="backslashreplace")
    monkeypatch.setattr(screen, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr", screen)
    with ProgressLine() as line:
        line.show(Progress("digits", 1, 2))
    assert b"digits: ##########---------- 1/2 replicas ready" in written.getvalue()
