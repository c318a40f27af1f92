"""What a command in the foreground prints: its lines, and why it fails."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

from pointsman.cli.common import one_line, print_line
from pointsman.exceptions import ServeException
from pointsman.telemetry import logs

FAILURES = (ServeException, OSError, ValueError, TypeError)
"""What a user can cause."""

PROCESS = "command"
"""In JSON lines, the process of the command."""


class Lines:
    """What a command in the foreground says: text for people, or one JSON object per line, for whoever collects logs.

    Args:
        log_format: ``text`` or ``json``.
    """

    def __init__(self, log_format: str = logs.TEXT) -> None:
        self.is_json = log_format == logs.JSON
        self._formatter = logs.formatter(log_format, PROCESS)

    def set_up(self) -> None:
        """Have warnings of this process printed in the same way. Called at most once in a process."""
        if self.is_json:
            handler = logging.StreamHandler(sys.stdout)
            handler.setFormatter(self._formatter)
            logging.basicConfig(level=logging.WARNING, handlers=[handler])
            logging.captureWarnings(True)

    def say(self, text: str, *, err: bool = False) -> None:
        """Print a line; with ``err``, text goes to standard error."""
        if self.is_json:
            self._print(logging.INFO, text, {})
        else:
            print_line(text, err=err)

    def fail(self, text: str, *, traceback: str = "") -> None:
        """Print why the command fails; ``traceback`` is one of user code, which people see in place of the text."""
        if self.is_json:
            self._print(logging.ERROR, text, {"exception": traceback} if traceback else {})
        else:
            print_line(traceback or f"pointsman: {text}", err=True)

    def _print(self, level: int, text: str, fields: dict[str, Any]) -> None:
        print_line(self._formatter.format(logs.record(level, f"pointsman.{PROCESS}", text, fields)))


@contextlib.contextmanager
def reported(lines: Lines) -> Iterator[None]:
    """In the body, what a user can cause ends the command with 1, and is printed as its other lines are."""
    try:
        yield
    except FAILURES as error:
        lines.fail(one_line(error))
        sys.exit(1)
