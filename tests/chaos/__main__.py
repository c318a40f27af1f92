"""``python -m tests.chaos``: the rows, and what came of them, in a table."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from tests.chaos.report import table_of, write_markdown
from tests.chaos.run import ROWS, Result, run_row
from tests.chaos.soak import soak_row

FIXED_SEED = 1


def main(
    engine: Annotated[str, typer.Option(help="local or ray")] = "local",
    rows: Annotated[str, typer.Option(help="keys of rows, separated by commas; all by default")] = "",
    soak: Annotated[float, typer.Option(help="seconds for which a process is killed each second, and no row")] = 0.0,
    document: Annotated[str, typer.Option(help="where to write the table too, such as docs/faults.md")] = "",
    seed: Annotated[Optional[list[int]], typer.Option(help="by default a fixed and a new one")] = None,  # noqa: UP045
) -> None:
    """Break things under load and say what users saw. The exit code is 1 when a row fails."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    known = {key: row for key, row in ROWS.items() if engine in row.engines}
    if soak:
        known = {"F40": soak_row(soak)}
    wanted = [key.strip() for key in rows.split(",") if key.strip()] or list(known)
    if unknown := [key for key in wanted if key not in known]:
        raise typer.BadParameter(
            f"there are no rows {', '.join(unknown)} on engine {engine!r}; there are {list(known)}"
        )
    seeds = seed or [FIXED_SEED, secrets.randbelow(1_000_000)]
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="pm", dir="/tmp") as folder, console.status("") as status:
        os.environ["XDG_RUNTIME_DIR"] = folder
        # What the processes say is in their logs, and would tear the table apart.
        os.dup2(os.open(Path(folder) / "stderr", os.O_WRONLY | os.O_CREAT, 0o600), 2)
        for key in wanted:
            for number in seeds:
                status.update(f"{key}, seed {number}: {known[key].title}")
                result = run_row(known[key], number, engine=engine, tell=status.update)
                results.append(result)
                for text in (*result.violations, *result.slow):
                    console.print(f"[red]{key}[/], seed {number}: {text}", highlight=False)
                for text in result.notes:
                    console.print(f"{key}, seed {number}: {text}", highlight=False)
                console.log(f"{key}, seed {number}: {result.took_s:.1f} s")
    console.print(table_of(results, f"Faults on engine {engine}, seeds {', '.join(map(str, seeds))}"))
    if document:
        write_markdown(results, engine, Path(document))
    raise typer.Exit(any(result.violations or result.slow for result in results))


if __name__ == "__main__":
    typer.run(main)
