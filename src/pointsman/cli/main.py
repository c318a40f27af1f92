"""The command line: ``pointsman start``, ``list``, ``status``, ``stop`` and others; ``pointsman --help`` lists them.

Called by the console script. Turns arguments into calls of the public client, and every failure that a user can cause
into one line on standard error. Learns what an instance is doing from the client's ``status()`` alone.

Slow imports are inside the commands that need them, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

import pointsman
from pointsman.cli import env, logs, traffic
from pointsman.cli.common import (
    HTTP_HOST,
    HTTP_PORT,
    AsJson,
    ClusterAddress,
    Name,
    command_line,
    connect_to,
    print_json,
    terminal,
)
from pointsman.cli.ending import print_line, report_kept_state, shutdown, stop
from pointsman.exceptions import ServeException
from pointsman.wire.descriptors import give_standard_streams

if TYPE_CHECKING:
    from pointsman.client import Client
    from pointsman.engine.base import Address
    from pointsman.engine.local.folder import About, InstanceFolder

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

app = typer.Typer(
    name="pointsman",
    help="Serve models: replicas, traffic policies and batching behind HTTP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.add_typer(traffic.app, name="traffic")
app.add_typer(env.app, name="env")


def main() -> None:
    """Run the command that ``sys.argv`` names; exits with 0, 1 (it failed), 2 (bad usage) or 130 (interrupted)."""
    give_standard_streams()
    _let_signals_unwind()
    try:
        app()
    except (ServeException, OSError, ValueError, TypeError) as error:
        typer.echo(f"pointsman: {_one_line(error)}", err=True)
        sys.exit(1)
    finally:
        # At exit the interpreter ends bound instances; a further Ctrl-C would only interrupt that and print a
        # traceback.
        _ignore_signals()


def _let_signals_unwind() -> None:
    """Make the first two signals raise KeyboardInterrupt: the first ends what this process has started in good order,
    the second cuts that short.

    Further ones are ignored: they would interrupt the clean-up. SIGTERM, which service managers send, and SIGHUP, which
    a closed terminal sends, count as Ctrl-C.
    """
    left = 2

    def unwind(*_: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            _ignore_signals()
        raise KeyboardInterrupt

    for signum in SIGNALS:
        if signal.getsignal(signum) != signal.SIG_IGN:  # nohup and a shell's & ignore signals on purpose
            signal.signal(signum, unwind)


def _ignore_signals() -> None:
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pointsman {pointsman.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def start(
    detached: Annotated[bool, typer.Option("--detached", help="Return once it is ready; it runs on.")] = False,
    name: Name = "default",
    http_host: Annotated[str, typer.Option("--http-host", help="Address to listen on.", metavar="HOST")] = HTTP_HOST,
    http_port: Annotated[int, typer.Option("--http-port", help="0 takes any free port.", metavar="PORT")] = HTTP_PORT,
    http_location: Annotated[
        str, typer.Option("--http-location", help="Where HTTP servers run.", metavar="HeadOnly|EveryNode|NoServer")
    ] = "HeadOnly",
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-export-port", help="Of metrics; 0 takes any free port, -1 none.", metavar="PORT"),
    ] = None,
    state_dir: Annotated[
        str | None, typer.Option("--state-dir", help="Keep state here, over restarts.", metavar="FOLDER")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="Where it runs.", metavar="local|ray")] = "local",
    address: ClusterAddress = None,
    api_keys: Annotated[
        str | None, typer.Option("--api-keys", help="Keys of clients, JSON, mode 0600.", metavar="FILE")
    ] = None,
    tls_cert: Annotated[
        str | None, typer.Option("--tls-cert", help="For HTTPS: the certificate, PEM.", metavar="FILE")
    ] = None,
    tls_key: Annotated[str | None, typer.Option("--tls-key", help="Its private key, PEM.", metavar="FILE")] = None,
    tls_client_ca: Annotated[
        str | None, typer.Option("--tls-client-ca", help="Clients must show its certificates.", metavar="FILE")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Do not warn that others can use it without a key.")
    ] = False,
) -> None:
    """Start an instance. Without --detached it ends with this command, by Ctrl-C."""
    from pointsman.client.start import start_named
    from pointsman.config import parse_http_options
    from pointsman.engine.folder import check_name
    from pointsman.engine.local.folder import InstanceFolder

    tls = {"cert": tls_cert, "key": tls_key, "client_ca": tls_client_ca}
    tls = {name: path for name, path in tls.items() if path is not None}
    http = parse_http_options(
        {"host": http_host, "port": http_port, "location": http_location, "tls": tls or None, "insecure": insecure}
    )
    folder = InstanceFolder.of(check_name(name))
    if engine == "local" and folder.is_alive():  # start() finds that too; its text is for Python
        raise ServeException(f"an instance named {name!r} is running; end it with: {command_line('stop', name)}")
    client = start_named(
        name,
        bound=not detached,
        http=http,
        state_dir=state_dir,
        metrics_port=_metrics_port(metrics_port),
        engine=engine,
        address=address,
        api_keys=api_keys,
    )
    if detached:
        _announce(client, name)
        typer.echo(f"Deploy to it:  client = pointsman.connect({name!r})    (in Python)")
        typer.echo(f"Look at it:    {command_line('status', name, address)}")
        typer.echo(
            f"Stop it:       {command_line('stop', name, address)}{'    (keeps its state)' if state_dir else ''}"
        )
        typer.echo(f"End it:        {command_line('shutdown', name, address)}{'    (forgets it)' if state_dir else ''}")
    else:
        _serve_until_ended(client, name, address, folder if engine == "local" else None)


@app.command("list")
def list_instances(address: ClusterAddress = None, as_json: AsJson = False) -> None:
    """Show the instances of this user on this machine, or of a Ray cluster, but for those that scripts have started for
    themselves."""
    from pointsman.cli.tables import show_instances
    from pointsman.client.start import attach
    from pointsman.engine.base import url
    from pointsman.engine.instances import named_on_cluster
    from pointsman.engine.local.folder import abouts

    found: list[tuple[str, int, About | Address]] = []
    if address is None:
        found += [(about.name, about.pid, about) for about in abouts()]
    else:
        there = named_on_cluster(address)
        found += [(name, attach(one).status()["controller_pid"], one) for name, one in there]
    instances = [
        {
            "name": name,
            "pid": pid,
            "http": url(one.http_host, one.http_port, secure=one.secure),
            "metrics": url(one.metrics_host, one.metrics_port),
        }
        for name, pid, one in found
    ]
    if as_json:
        print_json(instances)
    else:
        show_instances(instances, terminal())


@app.command()
def status(
    name: Name = "default",
    as_json: AsJson = False,
    watched: Annotated[bool, typer.Option("--watch", help="Redraw every second, until Ctrl-C.")] = False,
    address: ClusterAddress = None,
) -> None:
    """Show endpoints, backends and replicas of a running instance."""
    client = connect_to(name, address)
    if as_json:
        print_json(client.status())
        return
    from pointsman.cli.tables import show_status, status_tables

    if not watched:
        show_status(client.status(), terminal())
        return
    from rich.console import Group

    from pointsman.cli.top import watch

    watch(lambda: Group(*status_tables(client.status())), terminal(), every_s=1.0)


@app.command()
def top(
    name: Name = "default",
    as_json: AsJson = False,
    every: Annotated[float, typer.Option("--every", help="Seconds that each picture covers.", min=0.1)] = 1.0,
    address: ClusterAddress = None,
) -> None:
    """Show requests, errors, latencies and queues as they happen, until Ctrl-C."""
    client = connect_to(name, address)
    if as_json:
        print_json(client.stats(over_s=every))
        return
    from pointsman.cli.top import stats_tables, watch

    title = f"{name}  the last {every:g} s  (Ctrl-C leaves)"
    watch(lambda: stats_tables(client.stats(over_s=every), title), terminal())


@app.command()
def history(name: Name = "default", address: ClusterAddress = None, as_json: AsJson = False) -> None:
    """Show the last 200 changes of backends and endpoints: when, what and who."""
    changes = connect_to(name, address).history()
    if as_json:
        print_json(changes)
        return
    from pointsman.cli.tables import show_changes

    show_changes(changes, terminal())


app.command()(logs.logs)
app.command()(stop)
app.command()(shutdown)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Serve on afterwards, until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option("--port", help="Of HTTP; 0 takes any free one.", metavar="PORT")] = 8000,
) -> None:
    """Train two classifiers of handwritten digits, serve both, and measure them over HTTP."""
    from pointsman.demo.run import run_demo

    run_demo(terminal(), port=port, keep=keep)


def _announce(client: Client, name: str) -> None:
    typer.echo(f"Instance {name!r} is ready{_at(client.http_address)}.")
    if client.metrics_address:
        typer.echo(f"Metrics are at {client.metrics_address}/metrics.")


def _serve_until_ended(client: Client, name: str, address: str | None, folder: InstanceFolder | None) -> None:
    """Wait until a signal comes, which stops the instance and keeps its state, or until another process ends it.

    Args:
        folder: the instance's folder; None on a Ray cluster.
    """
    status = client._status()
    try:
        _announce(client, name)  # inside try: a caller that reads this line may send the signal at once
        typer.echo(f"Ctrl-C stops it. Elsewhere, look at it with: {command_line('status', name, address)}")
        client._wait_for_end()
    except KeyboardInterrupt:
        print_line("Stopping; Ctrl-C again hurries it.", err=True)
        with contextlib.suppress(KeyboardInterrupt):  # a second signal: the instance is released at once
            client.stop()
        client._after_end()
        report_kept_state(name, status, address, detached=False)
        return
    killed = folder is not None and folder.path.exists()  # an instance that ends in order removes its folder
    client.stop()
    if killed:
        raise ServeException("the instance's supervisor was killed")
    print_line("The instance was ended by another command or program.")


def _metrics_port(given: int | None) -> int | None:
    from pointsman.client.start import DEFAULT_METRICS_PORT, check_metrics_port

    if given is None:
        return DEFAULT_METRICS_PORT
    if given < -1:
        raise ValueError(f"--metrics-export-port {given} is not between 0 and 65535, nor -1 for none")
    return None if given == -1 else check_metrics_port(given)


def _at(address: str | None) -> str:
    return f" at {address}" if address else ", without an HTTP server"


def _one_line(error: Exception) -> str:
    """An error's text for users: without the errno, and without a remote traceback."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    lines = text.strip().splitlines()
    return lines[0] if lines else type(error).__name__
