"""What is wrong with a configuration file, or with carrying it out: one class for each exit code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from pointsman.exceptions import ServeException
from pointsman.wire.apply import OperationView


class Place(NamedTuple):
    """A place in a text file; both numbers begin with 1."""

    line: int
    column: int


class Problem(NamedTuple):
    """One thing that is wrong with a file.

    Attributes:
        place: None where it is not known, as in TOML.
        traceback: of code that the file names; empty for none.
    """

    file: str
    place: Place | None
    text: str
    traceback: str = ""

    def __str__(self) -> str:
        where = f":{self.place.line}:{self.place.column}" if self.place is not None else ""
        return f"{self.file}{where}: {self.text}"

    def as_json(self) -> dict[str, Any]:
        """The problem as commands print it with ``--json``."""
        line, column = self.place if self.place is not None else (None, None)
        told = {"traceback": self.traceback} if self.traceback else {}
        return {"file": self.file, "line": line, "column": column, "text": self.text, **told}


class BadFileError(ValueError):
    """A configuration file cannot be used. Its author's fault. Its text has a line for each problem.

    Attributes:
        problems: all of them, in the order of the file.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = _in_order(problems)
        super().__init__("\n".join(map(str, self.problems)))


class CodeError(ServeException):
    """Code that a configuration file names cannot be loaded. Its text has a line for each problem.

    Attributes:
        problems: all of them, in the order of the file.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = _in_order(problems)
        super().__init__("\n".join(map(str, self.problems)))


def sentence(error: Exception) -> str:
    """The text of an error on one line."""
    return " ".join(str(error).split())


def _in_order(problems: Iterable[Problem]) -> Sequence[Problem]:
    return sorted(dict.fromkeys(problems), key=lambda problem: problem.place or Place(0, 0))


class RefusedError(ServeException):
    """A configuration file is not carried out, since something else comes first. Nobody's fault. Nothing has changed.

    Attributes:
        conflicts: fields and objects that others have set; empty if it is refused for another reason.
    """

    def __init__(self, text: str, conflicts: Sequence[Any] = ()) -> None:
        super().__init__(text)
        self.conflicts = conflicts


class TakenBackError(ServeException):
    """An apply has failed, and every step of it was taken back.

    Attributes:
        operation: what failed, and why.
    """

    def __init__(self, operation: OperationView) -> None:
        what = f"{operation.object}: " if operation.object else ""
        super().__init__(f"the apply was taken back: {what}{operation.text}")
        self.operation = operation
