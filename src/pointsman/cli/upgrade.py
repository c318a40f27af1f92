"""``pointsman upgrade``: this release takes over an instance from the one that runs it."""

from __future__ import annotations

from typing import Annotated

import typer

from pointsman.cli.common import AsJson, Name, command_line, print_json
from pointsman.exceptions import BusyError

TAKEN_BACK = 5
WAIT_S = 600.0


def upgrade(
    name: Name = "default",
    wait: Annotated[
        float, typer.Option("--wait", help="How long all backends may take to load.", metavar="SECONDS", min=1.0)
    ] = WAIT_S,
    as_json: AsJson = False,
) -> None:
    """Have this release of Pointsman take over a detached instance with --state-dir from the release that runs it,
    without a refused connection or a lost request. If it cannot come up, all is as before.

    Exit codes: 0; 1 no room for both, or no such instance; 2 it cannot be taken over; 4 another upgrade is under way;
    5 this release could not come up.
    """
    from pointsman.client.heir import TakenBackError
    from pointsman.client.upgraderoom import NoRoomError
    from pointsman.client.upgrading import CannotUpgradeError
    from pointsman.client.upgrading import upgrade as take_over
    from pointsman.progress import Activity

    codes = {CannotUpgradeError: 2, BusyError: 4, NoRoomError: 1}

    def say(text: str) -> None:
        if not as_json:
            typer.echo(text)

    try:
        with Activity("Loading all backends") as line:
            done = take_over(name, wait_s=wait, tell=say, show=line.show)
    except (CannotUpgradeError, BusyError, NoRoomError) as error:
        typer.echo(f"pointsman: {error}", err=True)
        if as_json:
            print_json({"error": str(error)})
        raise typer.Exit(codes[type(error)]) from None
    except TakenBackError as error:
        if error.traceback and not as_json:
            from pointsman.running.tracebacks import from_users_line

            typer.echo(from_users_line(error.traceback), err=True)
        typer.echo(f"pointsman: {error}", err=True)
        if error.runs_on:
            say(f"Instance {name!r} runs on as before.")
        if as_json:
            print_json({"error": str(error), "backend": error.backend, "traceback": error.traceback})
        raise typer.Exit(TAKEN_BACK) from None
    for tag in done.failing:
        say(f"Backend {tag!r} had no replica that serves, before as after.")
    if as_json:
        shown = {"name": name, "from": done.before, "to": done.after, "seconds": round(done.seconds, 3)}
        print_json({**shown, "failing": list(done.failing)})
    say(
        f"Instance {name!r} runs release {done.after}, after {done.seconds:.1f} s. Requests that the old one runs have"
        f" {done.drain_s:g} s to finish."
    )
    say(f"Look at it:    {command_line('status', name)}")
