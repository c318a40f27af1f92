"""What the commands share: the instance they are about, and the terminal they write to."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pointsman.exceptions import ServeException

if TYPE_CHECKING:
    from rich.console import Console

    from pointsman.client import Client

HTTP_HOST, HTTP_PORT = "127.0.0.1", 8000
"""Where HTTP is served by default."""
PIPED_WIDTH = 120
"""Columns of tables that go into a file or pipe."""

Name = Annotated[str, typer.Option("--name", help="Which instance.", metavar="NAME")]
ClusterAddress = Annotated[
    str | None, typer.Option("--address", help="Of the Ray cluster that it runs on.", metavar="HOST:PORT|auto")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]


def connect_to(name: str, address: str | None = None) -> Client:
    """A client for a live instance, of this machine or of a Ray cluster.

    Raises:
        ServeException: there is none of that name; the text says which there are.
    """
    from pointsman.client.start import connect
    from pointsman.engine.folder import check_name
    from pointsman.engine.local.folder import InstanceFolder, live_instances

    if address is not None:
        return connect(name, address=address)
    if InstanceFolder.of(check_name(name)).is_alive() or os.environ.get("RAY_ADDRESS"):
        return connect(name)
    names = live_instances()
    others = (
        f"; running: {', '.join(names)}" if names else ", nor any other; start one with: pointsman start --detached"
    )
    raise ServeException(f"no instance named {name!r} is running{others} (on a Ray cluster: give --address)")


def command_line(verb: str, name: str, address: str | None = None) -> str:
    """How a command about an instance is written."""
    where = f" --address {address}" if address is not None else ""
    return f"pointsman {verb}" + (f" --name {name}" if name != "default" else "") + where


def terminal() -> Console:
    """Standard output, for tables and colours."""
    from rich.console import Console

    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # bars and frames on a terminal that has no such characters
    return Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))
