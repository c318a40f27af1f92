"""``pointsman validate | diff | apply | take-back | export | schema``: configuration files, to be kept in git."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pointsman.cli.common import AsJson, ClusterAddress, Name, connect_to, print_json, terminal
from pointsman.cli.ending import is_interactive

if TYPE_CHECKING:
    from pointsman.client import Client
    from pointsman.configfile.checking import Config
    from pointsman.configfile.plan import Outcome, Rules

FAILED, BAD_FILE, DIFFERENT, REFUSED, TAKEN_BACK, INTERRUPTED = 1, 2, 3, 4, 5, 130

File = Annotated[Path, typer.Argument(help="The configuration file.", metavar="FILE", show_default=False)]
FileName = Annotated[
    str | None, typer.Option("--name", help="Which instance; else the file's, or default.", metavar="NAME")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Where others have changed a field, take the file's value.")
]
Keep = Annotated[bool, typer.Option("--keep", help="Where others have changed a field, keep their value.")]
Adopt = Annotated[bool, typer.Option("--adopt", help="Take over objects that the file has not made.")]


def validate(
    file: File,
    load: Annotated[bool, typer.Option("--load", help="Load its code too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check a configuration file. Needs no instance, and imports nothing without --load."""
    with _exit_codes(as_json):
        config = _read(file)
        if load:
            from pointsman.configfile.applying import load_code

            load_code(config)
    backends, endpoints = len(config.section.backends), len(config.section.endpoints)
    if as_json:
        print_json({"problems": [], "backends": backends, "endpoints": endpoints})
    else:
        typer.echo(f"{file} is valid: backends: {backends}, endpoints: {endpoints}.")


def diff(
    file: File,
    overwrite: Overwrite = False,
    keep: Keep = False,
    adopt: Adopt = False,
    name: FileName = None,
    as_json: AsJson = False,
    address: ClusterAddress = None,
) -> None:
    """Show what apply would change. Exits with 0 if that is nothing, else with 3."""
    from pointsman.configfile.applying import compare

    with _exit_codes(as_json):
        config = _read(file)
        client = _connect(config, name, address)
        outcome, running, _ = compare(client, config, _rules(overwrite, keep, adopt))
    if as_json:
        print_json(outcome.as_json())
    else:
        from pointsman.cli.difftables import show_changes, summary

        show_changes(outcome, terminal())
        typer.echo(summary(outcome))
    if running is not None:  # its backends are compared as they will be, and are not in force
        text = f"an apply of {running.owner!r} by {running.by} runs since {running.began}, and is not in force yet"
        typer.echo(f"pointsman: {text}", err=True)
    if outcome.changes or outcome.conflicts or running is not None:
        raise typer.Exit(DIFFERENT)


def apply(
    file: File,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    overwrite: Overwrite = False,
    keep: Keep = False,
    adopt: Adopt = False,
    if_version: Annotated[
        int | None, typer.Option("--if-version", help="Only if the state still is of this version.", metavar="N")
    ] = None,
    name: FileName = None,
    as_json: AsJson = False,
    address: ClusterAddress = None,
) -> None:
    """Make an instance as a configuration file wants it; returns when all of it is in force. Asks before, on a
    terminal.

    All of it happens, or nothing: what fails is taken back (exit 5). It goes on if this command is interrupted.
    """
    from pointsman.configfile.applying import compare

    with _exit_codes(as_json):
        config, rules = _read(file), _rules(overwrite, keep, adopt)
        client = _connect(config, name, address)
        planned = compare(client, config, rules)
        if planned.outcome.changes and not planned.outcome.conflicts:
            if not as_json:
                from pointsman.cli.difftables import show_changes

                show_changes(planned.outcome, terminal())
            if is_interactive() and not yes and not _confirmed(planned.outcome):
                typer.echo("Nothing has changed.", err=True)
                raise typer.Exit(FAILED)
        outcome = _carried_out(client, config, rules, if_version=if_version, planned=planned)
    if as_json:
        print_json({"version": outcome.version, **outcome.by_action()})
    else:
        from pointsman.cli.difftables import report

        typer.echo(report(outcome))


def take_back(name: Name = "default", as_json: AsJson = False, address: ClusterAddress = None) -> None:
    """Take the apply back that runs, as when a backend of it never comes up. Exits with 0 if that is done, with 1 if
    none runs, or if it was complete before."""
    from pointsman.configfile.applying import take_back as taken_back
    from pointsman.wire.apply import TAKEN_BACK as BACK

    ended = taken_back(connect_to(name, address))
    if as_json:
        print_json({"owner": ended and ended.owner, "state": ended and ended.state, "version": ended and ended.version})
    if ended is None:
        typer.echo("pointsman: no apply runs, so that there is nothing to take back", err=True)
    elif ended.state != BACK:
        typer.echo(f"pointsman: the apply of {ended.owner!r} has ended already: {ended.state}", err=True)
    elif not as_json:
        typer.echo(f"The apply of {ended.owner!r} by {ended.by} was taken back.")
    if ended is None or ended.state != BACK:
        raise typer.Exit(FAILED)


def export(
    owner: Annotated[str | None, typer.Argument(help="Name of a file: only its objects.", metavar="[OWNER]")] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Leave out what no file can have.")] = False,
    name: FileName = None,
    as_json: AsJson = False,
    address: ClusterAddress = None,
) -> None:
    """Print a configuration file of what runs. Values of environment variables become ${NAME}."""
    from pointsman.configfile.applying import export_instance
    from pointsman.configfile.tree import mapped
    from pointsman.configfile.yamltree import write_yaml

    found = export_instance(connect_to(name or "default", address), owner)
    for left_out, why in found.left_out.items():
        typer.echo(f"{left_out} is left out: {why}", err=True)
    if found.left_out and not partial:
        typer.echo("pointsman: nothing was written; --partial writes the rest", err=True)
        raise typer.Exit(FAILED)
    if as_json:
        print_json(mapped(found.content, lambda _, value: "inf" if value == float("inf") else value))
    else:
        typer.echo(write_yaml(found.content), nl=False)


def schema() -> None:
    """Print the JSON Schema of configuration files, for editors and checks."""
    from pointsman.configfile.models import json_schema

    print_json(json_schema())


def _read(file: Path) -> Config:
    from pointsman.configfile.checking import load

    return load(file)


def _connect(config: Config, name: str | None, address: str | None) -> Client:
    instance = config.section.instance
    named = instance.name if instance is not None else None
    there = instance.address if instance is not None else None
    return connect_to(name or named or "default", address or there)


def _rules(overwrite: bool, keep: bool, adopt: bool) -> Rules:
    from pointsman.configfile.plan import Rules

    if overwrite and keep:
        raise typer.BadParameter("--overwrite and --keep exclude each other")
    return Rules("overwrite" if overwrite else "keep" if keep else "refuse", adopt)


def _confirmed(outcome: Outcome) -> bool:
    from pointsman.cli.difftables import summary

    typer.echo(summary(outcome), err=True)
    try:
        return typer.confirm("Apply?", default=False, err=True)
    except typer.Abort:  # Ctrl-C, or end of input
        typer.echo(err=True)
        return False


def _carried_out(client: Client, config: Config, rules: Rules, **given: Any) -> Outcome:
    """Carry a file out with bars that show how far it is. A Ctrl-C leaves it running, and says so."""
    from pointsman.cli.difftables import Bars
    from pointsman.configfile.applying import apply_config

    has_begun = False

    def accepted() -> None:
        nonlocal has_begun
        has_begun = True

    try:
        with Bars() as bars:
            return apply_config(client, config, rules, show=bars.show, accepted=accepted, **given)
    except KeyboardInterrupt:
        went_on = (
            "The apply goes on without this command: pointsman status shows it until its end, and pointsman take-back"
            " ends it."
        )
        typer.echo(went_on if has_begun else "Interrupted before the apply began; nothing has changed.", err=True)
        raise typer.Exit(INTERRUPTED) from None


@contextlib.contextmanager
def _exit_codes(as_json: bool) -> Iterator[None]:
    """Turns what a file can bring about into lines on standard error, and the exit code."""
    from pointsman.configfile.problems import BadFileError, CodeError, RefusedError, TakenBackError

    try:
        yield
    except (BadFileError, CodeError) as error:
        for traceback in dict.fromkeys(problem.traceback for problem in error.problems if problem.traceback):
            typer.echo(traceback, err=True)
        typer.echo(str(error), err=True)
        if as_json:
            print_json({"problems": [problem.as_json() for problem in error.problems]})
        raise typer.Exit(BAD_FILE if isinstance(error, BadFileError) else FAILED) from None
    except RefusedError as error:
        typer.echo(f"pointsman: {error}", err=True)
        if as_json:
            print_json({"error": str(error), "conflicts": [conflict.as_json() for conflict in error.conflicts]})
        raise typer.Exit(REFUSED) from None
    except TakenBackError as error:
        if error.operation.traceback:
            from pointsman.running.tracebacks import from_users_line

            typer.echo(from_users_line(error.operation.traceback), err=True)
        typer.echo(f"pointsman: {error}", err=True)
        if as_json:
            failed = error.operation
            print_json({"error": str(error), "object": failed.object, "traceback": failed.traceback})
        raise typer.Exit(TAKEN_BACK) from None
