"""An instance in the foreground: started with the options that were given, and waited for until it ends."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from pointsman.cli.common import command_line
from pointsman.cli.ending import print_line, report_kept_state
from pointsman.exceptions import ServeException

if TYPE_CHECKING:
    from pointsman.cli.options import Given
    from pointsman.client import Client
    from pointsman.engine.local.folder import InstanceFolder


def start_instance(name: str, given: Given, *, bound: bool, address: str | None, quiet_starts: bool = False) -> Client:
    """Start a named instance.

    Args:
        quiet_starts: see :func:`pointsman.client.start.start_named`.

    Raises:
        ServeException: one of that name runs.
        OSError: a port is in use; the text says by whom, as far as that is known, and how another is given.
    """
    from pointsman.client.start import start_named

    folder = local_folder(name, given)
    if folder is not None and folder.is_alive():  # start() finds that too; its text is for Python
        raise ServeException(f"an instance named {name!r} is running; end it with: {command_line('stop', name)}")
    try:
        return start_named(
            name, bound=bound, http_options=given.http, address=address, quiet_starts=quiet_starts, **given.start
        )
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        metrics = given.start.get("metrics_export_port")
        option = "--metrics-export-port" if metrics and f"port {metrics}:" in str(error) else "--http-port"
        raise OSError(error.errno, f"{error.strerror}; take another port with {option}, 0 for any free one") from None


def local_folder(name: str, given: Given) -> InstanceFolder | None:
    """The folder of an instance on this machine; None of one on a Ray cluster."""
    from pointsman.engine.folder import check_name
    from pointsman.engine.local.folder import InstanceFolder

    check_name(name)
    return InstanceFolder.of(name) if given.start.get("engine", "local") == "local" else None


def announce(client: Client, name: str) -> None:
    """Say that an instance is ready, and where."""
    at = f" at {client.http_address}" if client.http_address else ", without an HTTP server"
    typer.echo(f"Instance {name!r} is ready{at}.")
    if client.metrics_address:
        typer.echo(f"Metrics are at {client.metrics_address}/metrics.")


@contextlib.contextmanager
def stopped_by_signals(client: Client, name: str, address: str | None) -> Iterator[None]:
    """In the body, a signal stops the instance and keeps its state; a second one hurries that. Other errors that leave
    the body stop it as well."""
    status = client._status()
    try:
        yield
    except KeyboardInterrupt:
        print_line("Stopping; Ctrl-C again hurries it.", err=True)
        with contextlib.suppress(KeyboardInterrupt):  # a second signal: the instance is released at once
            client.stop()
        client._after_end()
        report_kept_state(name, status, address, detached=False)
    except BaseException:
        client.stop()
        raise


def wait_until_ended(client: Client, folder: InstanceFolder | None) -> None:
    """Wait until another process ends the instance.

    Args:
        folder: the instance's folder; None on a Ray cluster.

    Raises:
        ServeException: its supervisor was killed.
    """
    client._wait_for_end()
    killed = folder is not None and folder.path.exists()  # an instance that ends in order removes its folder
    client.stop()
    if killed:
        raise ServeException("the instance's supervisor was killed")
    print_line("The instance was ended by another command or program.")
