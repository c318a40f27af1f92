"""``pointsman stop`` and ``pointsman shutdown``, with their question before and their report after it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.cli.common import (
    HTTP_HOST,
    HTTP_PORT,
    ClusterAddress,
    Name,
    command_line,
    connect_to,
    is_of_script,
    print_line,
)

if TYPE_CHECKING:
    from pointsman.wire.commands import Status


def stop(name: Name = "default", address: ClusterAddress = None) -> None:
    """Stop an instance once requests under way are finished, and keep its stored state."""
    client = connect_to(name, address)
    status = client._status()
    client.stop()
    report_kept_state(name, status, address)


def shutdown(
    name: Name = "default",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before stored state is forgotten.")] = False,
    address: ClusterAddress = None,
) -> None:
    """End an instance for good, once requests under way are finished: its stored state is forgotten. Asks before, on a
    terminal."""
    client = connect_to(name, address)
    status = client._status()
    if status.state_dir and not yes and is_interactive() and not _confirm_forgetting(name, status, address):
        typer.echo("Nothing has changed.", err=True)
        raise typer.Exit(1)
    client.shutdown()
    gone = f", and its state in {status.state_dir} is forgotten" if status.state_dir else ""
    again = "" if is_of_script(name) else f" Start a new one with: {_start_again(name, status, address)}"
    typer.echo(f"Instance {name!r} has ended{gone}.{again}")


def report_kept_state(
    name: str,
    status: Status,
    address: str | None,
    *,
    detached: bool = True,
    say: Callable[[str], None] = print_line,
) -> None:
    """Report what is kept of a stopped instance, and how to start it again.

    Args:
        status: the instance's status before it was stopped.
        detached: whether the instance was started with ``--detached``.
        say: prints a line.
    """
    if is_of_script(name):
        say(f"Instance {name!r} has stopped. Nothing of it is kept: a script has started it.")
        return
    if status.state_dir:
        kept = f"Its state is kept in {status.state_dir}; start it again with"
    else:
        kept = "Nothing of it is kept, since it has no --state-dir; start a new one with"
    say(f"Instance {name!r} has stopped. {kept}: {_start_again(name, status, address, detached=detached)}")


def is_interactive() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _confirm_forgetting(name: str, status: Status, address: str | None) -> bool:
    backends, endpoints = len(status.backends), len(status.endpoints)
    typer.echo(
        f"Instance {name!r} has state stored in {status.state_dir}: backends: {backends}, endpoints: {endpoints}.\n"
        f"A shutdown forgets it. To end the instance and keep it: {command_line('stop', name, address)}",
        err=True,
    )
    try:
        return typer.confirm("Forget it?", default=False, err=True)
    except typer.Abort:  # Ctrl-C, or end of input
        typer.echo(err=True)
        return False


def _start_again(name: str, status: Status, address: str | None, *, detached: bool = True) -> str:
    given = status.start_options
    options = ["--detached"] if detached else []
    options += ["--name", name] if name != "default" else []
    if status.http_host is None:
        options += ["--http-location", "NoServer"]
    else:
        options += ["--http-host", status.http_host] if status.http_host != HTTP_HOST else []
        options += ["--http-port", str(status.http_port)] if status.http_port != HTTP_PORT else []
        options += ["--http-location", "EveryNode"] if given.every_node else []
        options += given.locks
    if given.metrics_port is not None:
        options += ["--metrics-export-port", str(given.metrics_port)]
    options += given.others
    options += ["--engine", "ray"] if given.engine == "ray" or address is not None else []
    options += ["--address", address] if address is not None else []
    options += ["--state-dir", status.state_dir] if status.state_dir else []
    return shlex.join(["pointsman", "start", *options])
