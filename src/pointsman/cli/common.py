"""Shared by the commands: common options, the client of the named instance, and output to the terminal."""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pointsman.cli import completion
from pointsman.exceptions import ServeException

if TYPE_CHECKING:
    from rich.console import Console

    from pointsman.client import Client

#: Defaults of ``start``.
HTTP_HOST, HTTP_PORT = "127.0.0.1", 8000
#: Width of tables in a file or pipe, in columns.
PIPED_WIDTH = 120

Name = Annotated[
    str, typer.Option("--name", help="Which instance.", metavar="NAME", autocompletion=completion.instance_names)
]
ClusterAddress = Annotated[
    str | None, typer.Option("--address", help="Of the Ray cluster that it runs on.", metavar="HOST:PORT|auto")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]


def connect_to(name: str, address: str | None = None) -> Client:
    """A client for a live instance, of this machine or of a Ray cluster.

    Raises:
        ServeException: no instance of that name runs; the text names those that do.
    """
    from pointsman.client.start import attach, connect
    from pointsman.engine.local.folder import all_abouts, folder_named, shown_name
    from pointsman.engine.local.lookup import address_in

    if address is not None:
        return connect(name, address=address)
    folder = folder_named(name)
    if is_of_script(name):
        return attach(address_in(folder))
    if folder.is_alive() or os.environ.get("RAY_ADDRESS"):
        return connect(name)
    names = [shown_name(about) for about in all_abouts()]
    others = (
        f"; running: {', '.join(names)}" if names else ", nor any other; start one with: pointsman start --detached"
    )
    raise ServeException(f"no instance named {name!r} is running{others}; for one on a Ray cluster, give --address")


def is_of_script(name: str) -> bool:
    """Whether a name is that by which :func:`list` shows the instance of a script."""
    from pointsman.engine.local.folder import SCRIPT_PREFIX

    return name.startswith(SCRIPT_PREFIX)


def command_line(verb: str, name: str, address: str | None = None) -> str:
    """The command line of a command about an instance, without options that have their default."""
    where = f" --address {address}" if address is not None else ""
    return f"pointsman {verb}" + (f" --name {shlex.quote(name)}" if name != "default" else "") + where


def terminal() -> Console:
    """Standard output, for tables and colours."""
    from rich.console import Console

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # the terminal's encoding may lack bars and frames
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def print_line(text: str, *, err: bool = False) -> None:
    """Write a line, unless the terminal was closed, as it is after a SIGHUP."""
    try:
        typer.echo(text, err=err)
    except OSError:
        # Python flushes the stream again at exit, and a second failure would change the exit code.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), (sys.stderr if err else sys.stdout).fileno())


def one_line(error: Exception) -> str:
    """An error's text for users: without the errno, and without a remote traceback."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    lines = text.strip().splitlines()
    return lines[0] if lines else type(error).__name__
