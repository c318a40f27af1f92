"""The command line: ``pointsman start``, ``list``, ``status``, ``stop`` and others; ``pointsman --help`` lists them.

Called by the console script. Turns arguments into calls of the public client, and every failure that a user can cause
into one line on standard error. Learns what an instance is doing from the client's ``status()`` alone.

Slow imports are inside the commands that need them, so that ``--help`` answers at once.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from typer.models import CommandInfo, TyperInfo

import pointsman
from pointsman.cli import autoscale, completion, config, console, env, logs, rollout, shadow, token, traffic
from pointsman.cli.common import AsJson, ClusterAddress, Name, command_line, connect_to, one_line, print_json, terminal
from pointsman.cli.deploy import delete, deploy, models, scale, unload, wake
from pointsman.cli.doctor import doctor
from pointsman.cli.ending import shutdown, stop
from pointsman.cli.foreground import Foreground, announcement, local_folder, start_instance
from pointsman.cli.lines import FAILURES, Lines, reported
from pointsman.cli.load import load
from pointsman.cli.options import Given, takes_start_options
from pointsman.cli.process import become_init, ignore_signals, let_signals_unwind
from pointsman.cli.recipe import recipe
from pointsman.cli.run import run
from pointsman.cli.upgrade import upgrade
from pointsman.exceptions import BusyError
from pointsman.wire.descriptors import give_standard_streams

if TYPE_CHECKING:
    from pointsman.engine.base import Address
    from pointsman.engine.local.folder import About


app = typer.Typer(
    name="pointsman",
    help="Serve models: replicas, traffic policies and batching behind HTTP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.add_typer(traffic.app, name="traffic")
app.add_typer(rollout.app, name="rollout")
app.add_typer(shadow.app, name="shadow")
app.add_typer(autoscale.app, name="autoscale")
app.add_typer(env.app, name="env")
app.add_typer(token.app, name="token")

INTERRUPTED = 130


def main() -> None:
    """Run the command that ``sys.argv`` names; exits with 0, 1 (it failed), 2 (bad usage) or 130 (interrupted);
    4 if a running apply is in the way; commands of configuration files also with 3 (there are differences), 4 (refused)
    or 5 (taken back); those that compare versions or wait for a rollout with 3 (harm, or inconclusive), 4 (somebody has
    set other traffic) or 5 (gone back)."""
    become_init()
    give_standard_streams()
    let_signals_unwind()
    if completion.is_asked():
        completion.answer(app)
    try:
        app_for(sys.argv[1:])()
    except FAILURES as error:
        typer.echo(f"pointsman: {one_line(error)}", err=True)
        sys.exit(config.REFUSED if isinstance(error, BusyError) else config.FAILED)
    except KeyboardInterrupt:  # before a command had begun, which turns it into 130 itself
        sys.exit(INTERRUPTED)
    finally:
        # At exit the interpreter ends bound instances; a further Ctrl-C would only interrupt that and print a
        # traceback.
        ignore_signals()


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """The app without the commands that these arguments do not name: typer reads the options of all of them before it
    runs one, which takes longer than many a command. The whole app where the first argument is no command."""
    first = arguments[0] if arguments else ""
    commands = [one for one in app.registered_commands if first == _name_of(one)]
    groups = [one for one in app.registered_groups if first == _name_of(one)]
    if not commands and not groups:
        return app
    lean = copy.copy(app)
    lean.registered_commands, lean.registered_groups = commands, groups
    return lean


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
@takes_start_options
def start(
    *,
    detached: Annotated[bool, typer.Option("--detached", help="Return once it is ready; it runs on.")] = False,
    name: Name = "default",
    address: ClusterAddress = None,
    given: Given,
) -> None:
    """Start an instance. Without --detached it ends with this command, by Ctrl-C."""
    look = command_line("status", name, address)
    if detached:
        client = start_instance(name, given, bound=False, address=address)
        for line in announcement(client, name, address):
            typer.echo(line)
        keeps = "state_dir" in given.start
        typer.echo(f"Deploy to it:  {command_line('deploy', name, address)} TARGET --route ROUTE")
        typer.echo(f"               client = pointsman.connect({name!r})    (in Python)")
        typer.echo(f"Look at it:    {look}")
        typer.echo(f"Stop it:       {command_line('stop', name, address)}{'    (keeps its state)' if keeps else ''}")
        typer.echo(f"End it:        {command_line('shutdown', name, address)}{'    (forgets it)' if keeps else ''}")
        return
    lines = Lines(given.start.get("log_format", "text"))
    with reported(lines), Foreground(lines) as front:
        client = front.start(name, given, address=address)
        with front.stopped_by_signals(client, name, address):
            # In here: a caller that reads these lines may send the signal at once.
            front.is_up(
                client, [*announcement(client, name, address), f"Ctrl-C stops it. Elsewhere, look at it with: {look}"]
            )
            front.wait_until_ended(client, local_folder(name, given))


@app.command("list")
def list_instances(address: ClusterAddress = None, as_json: AsJson = False) -> None:
    """Show the instances of this user on this machine, or of a Ray cluster. Those that scripts have started for
    themselves have names such as "(script) 4711", which --name takes."""
    from pointsman.cli.tables import show_instances
    from pointsman.client.start import attach
    from pointsman.engine.base import url
    from pointsman.engine.instances import named_on_cluster
    from pointsman.engine.local.folder import all_abouts, shown_name

    found: list[tuple[str, int, str, About | Address]] = []
    if address is None:
        found += [(shown_name(about), about.pid, about.release, about) for about in all_abouts()]
    else:
        there = named_on_cluster(address)
        for name, one in there:
            now = attach(one).status()
            found.append((name, now["controller_pid"], now["release"], one))
    instances = [
        {
            "name": name,
            "pid": pid,
            "release": release or None,
            "http": url(one.http_host, one.http_port, secure=one.secure),
            "metrics": url(one.metrics_host, one.metrics_port),
            "console": one.console or None,
        }
        for name, pid, release, one in found
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
    every: Annotated[float, typer.Option("--every", help="Seconds between two pictures.", min=0.1)] = 1.0,
    over: Annotated[
        str,
        typer.Option("--over", help="What the numbers cover: 10s, 1m, 10m, or policy: since the last change of it."),
    ] = "10s",
    address: ClusterAddress = None,
) -> None:
    """Show requests, errors, latencies and queues as they happen, until Ctrl-C."""
    from pointsman.telemetry.windows import POLICY, WINDOWS

    if over not in (*WINDOWS, POLICY):
        raise typer.BadParameter(f"--over must be one of {', '.join((*WINDOWS, POLICY))}, not {over!r}")
    client = connect_to(name, address)
    if as_json:
        print_json(client.stats(over_s=every))
        return
    from pointsman.cli.top import stats_tables, watch

    covered = "since the traffic policy changed" if over == POLICY else f"the last {over}"
    title = f"{name}  {covered}  (Ctrl-C leaves)"
    watch(
        lambda: stats_tables(client.stats(over_s=every), title, over, client.status()["backends"]),
        terminal(),
    )


@app.command()
def history(name: Name = "default", address: ClusterAddress = None, as_json: AsJson = False) -> None:
    """Show the last 200 changes of backends and endpoints: when, what and who."""
    changes = connect_to(name, address).history()
    if as_json:
        print_json(changes)
        return
    from pointsman.cli.tables import show_changes

    show_changes(changes, terminal())


app.command()(run)
app.command("serve", help="The same as run.")(run)
app.command()(console.console)
app.command()(deploy)
app.command()(scale)
app.command()(wake)
app.command()(unload)
app.command()(delete)
app.command()(models)
app.command()(logs.logs)
app.command()(completion.completion)
app.command()(load)
app.command()(doctor)
app.command()(recipe)
app.command()(upgrade)
app.command()(stop)
app.command()(shutdown)

for command in (config.validate, config.diff, config.apply, config.export, config.schema):
    app.command()(command)
app.command("take-back")(config.take_back)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Serve on afterwards, until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option("--port", help="Of HTTP; 0 takes any free one.", metavar="PORT")] = 8000,
) -> None:
    """Train two classifiers of handwritten digits, serve both, and measure them over HTTP."""
    from pointsman.demo.run import run_demo

    run_demo(terminal(), port=port, keep=keep)


PANELS = {
    "Serve": "run serve start deploy delete stop shutdown demo",
    "Look at it": "status top logs list history console doctor load",
    "Versions and their traffic": "traffic rollout shadow",
    "Numbers of replicas": "scale wake unload autoscale models",
    "Configuration files": "validate diff apply take-back export schema",
    "Releases, recipes, packages, access": "upgrade recipe env token completion",
}
"""The commands that ``--help`` shows under each title."""


def _group_commands() -> None:
    panels = {name: title for title, names in PANELS.items() for name in names.split()}
    order = list(panels)
    for command in app.registered_commands:
        command.rich_help_panel = panels[_name_of(command)]
    for group in app.registered_groups:
        group.rich_help_panel = panels[_name_of(group)]
    app.registered_commands.sort(key=lambda command: order.index(_name_of(command)))


def _name_of(command: CommandInfo | TyperInfo) -> str:
    return str(command.name or getattr(command.callback, "__name__", ""))  # without a name it is the function's


_group_commands()
