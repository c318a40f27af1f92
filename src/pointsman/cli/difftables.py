"""Renders what a configuration file changes for the terminal. Called by the commands of :mod:`pointsman.cli.config`."""

from __future__ import annotations

import json
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from pointsman.cli.cells import make_table, plain

if TYPE_CHECKING:
    from pointsman.configfile.plan import Change, Conflict, FieldChange, Outcome
    from pointsman.wire.commands import Progress as ReplicaProgress

STYLES = {"create": "green", "update": "yellow", "replace": "magenta", "delete": "red"}
MARKS = {"create": "+", "update": "~", "replace": "±", "delete": "-"}
DONE = {"create": "created", "update": "updated", "replace": "replaced", "delete": "deleted"}
SHORT_DIGEST = 12
LONGEST = 300


def show_changes(outcome: Outcome, console: Console) -> None:
    """Print what changes, field by field, and the conflicts."""
    table = make_table("", "", "object", "field", "in force", "in the file")
    for change in outcome.changes:
        _add(table, change)
    if table.row_count:
        console.print(table)
    if outcome.conflicts:
        console.print(conflict_table(outcome.conflicts))


def conflict_table(conflicts: Any) -> Any:
    """The conflicts, as a table."""
    table = make_table("Conflicts", "object", "field", "in the file", "in force", "by", "time (UTC)")
    for one in conflicts:
        table.add_row(*_conflict(one))
    return table


def summary(outcome: Outcome) -> str:
    """What would change, in a sentence."""
    counts = {action: len(names) for action, names in outcome.by_action().items()}
    same = counts.pop("unchanged")
    parts = [f"{count} to {action}" for action, count in counts.items() if count]
    if outcome.conflicts:
        parts.append(f"{len(outcome.conflicts)} in conflict")
    alike = f"{same} as the file wants {'it' if same == 1 else 'them'}"
    return f"{', '.join(parts) or 'No difference'}; {alike} (version {outcome.version})."


def report(outcome: Outcome) -> str:
    """What was changed, in a sentence."""
    counts = {action: len(names) for action, names in outcome.by_action().items()}
    same = counts.pop("unchanged")
    parts = [f"{count} {DONE[action]}" for action, count in counts.items() if count]
    return f"{'Done: ' + ', '.join(parts) if parts else 'Nothing to do'}; {same} unchanged (version {outcome.version})."


class Bars:
    """A context manager for bars that fill as the replicas of each backend become ready, and then go; nothing if
    standard error is no terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def show(self, progress: ReplicaProgress) -> None:
        """Show how many replicas of a backend are ready; its bar goes when all are."""
        if progress.backend not in self._bars:
            self._bars[progress.backend] = self._progress.add_task(plain(progress.backend).plain, total=progress.wanted)
        bar, is_done = self._bars[progress.backend], progress.ready >= progress.wanted
        self._progress.update(bar, completed=progress.ready, total=progress.wanted, visible=not is_done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()


def _add(table: Any, change: Change) -> None:
    style = STYLES[change.action]
    is_new = change.action == "create"
    cells = [[plain(one.field), *_values(one, is_new)] for one in change.fields] or [[Text(), Text(), Text()]]
    for number, row in enumerate(cells):
        what = Text(f"{MARKS[change.action]} {change.action}", style=style) if number == 0 else Text()
        table.add_row(what, plain(change.object) if number == 0 else Text(), *row)


def _values(change: FieldChange, is_new: bool) -> list[Text]:
    if not is_new and change.old == change.new:
        return [_value(change.field, change.old), Text("a value that is not shown differs", style="dim")]
    old = Text("-", style="dim") if is_new else _value(change.field, change.old)
    return [old, _value(change.field, change.new)]


def _conflict(one: Conflict) -> list[Text]:
    file, live = _value(one.field, one.file), _value(one.field, one.live)
    return [plain(one.object), plain(one.field), file, live, plain(one.by), plain(one.time[:19].replace("T", " "))]


def _value(field: str, value: Any) -> Text:
    if field in ("traffic", "shadows") and isinstance(value, dict) and value:
        return plain(", ".join(f"{tag} {100 * share:.4g} %" for tag, share in value.items()))
    if field == "content" and isinstance(value, str):
        return plain(value[:SHORT_DIGEST] or "-")
    if field == "code" and value is None:
        return Text("by value", style="dim")
    if field == "config.autoscaling" and value == {}:
        return Text("{}")  # all defaults; none at all is None
    if value is None or value in ({}, [], ""):
        return Text("-", style="dim")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return plain(text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}...")
