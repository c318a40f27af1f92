"""``pointsman rollout``: give a new version more traffic step by step, and watch it.

The controller carries a rollout out; these commands may end at any time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pointsman.cli import completion
from pointsman.cli.common import (
    AsJson,
    ClusterAddress,
    Name,
    command_line,
    connect_to,
    print_json,
    print_line,
    terminal,
)
from pointsman.cli.options import parse_seconds, parse_settings, parse_share

if TYPE_CHECKING:
    from pointsman.client import Client

#: Exit codes of ``wait`` and ``watch``, by the state in which a rollout is left.
EXIT_CODES = {"promoted": 0, "rolled_back": 5, "aborted": 5, "superseded": 4, "inconclusive": 3}
INTERRUPTED = 130
EVERY_S = 1.0

app = typer.Typer(help="Give a new version more traffic step by step; harm takes it back.", no_args_is_help=True)

Endpoint = Annotated[
    str, typer.Argument(metavar="ENDPOINT", show_default=False, autocompletion=completion.endpoint_names)
]


@app.command()
def start(
    endpoint: Endpoint,
    to: Annotated[str, typer.Argument(metavar="BACKEND", show_default=False, autocompletion=completion.backend_names)],
    steps: Annotated[
        str, typer.Option("--steps", help="Its weights, rising.", metavar="WEIGHT,...")
    ] = "1%,5%,25%,50%,100%",
    hold: Annotated[str, typer.Option("--hold", help="Each step lasts this long at least.", metavar="TIME")] = "5m",
    min_samples: Annotated[
        int, typer.Option("--min-samples", help="Requests that it must answer in a step.", metavar="N")
    ] = 100,
    gate: Annotated[
        list[str],
        typer.Option(
            "--gate",
            help="What is watched, such as health or 'latency={\"p99\": 1.1}'; may be repeated. "
            "Default: error_rate, latency, health.",
            metavar="NAME[=JSON]",
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer copies it
    alpha: Annotated[float, typer.Option("--alpha", help="How likely it may go back without harm.")] = 0.05,
    patience: Annotated[
        float, typer.Option("--patience", help="A step that takes this many times --hold is inconclusive.", metavar="N")
    ] = 10.0,
    on_inconclusive: Annotated[
        str, typer.Option("--on-inconclusive", help="What is done then.", metavar="hold|rollback")
    ] = "hold",
    watched: Annotated[bool, typer.Option("--watch", help="Show its progress, as watch does.")] = False,
    name: Name = "default",
    address: ClusterAddress = None,
    as_json: AsJson = False,
) -> None:
    """Start a rollout; returns when the first step is in force. If a gate finds harm beyond doubt, the former weights
    are restored."""
    weights = [parse_share(weight.strip()) for weight in steps.split(",")]
    hold_s, gates = parse_seconds(hold, "--hold"), _gates(gate)
    client = connect_to(name, address)
    rollout = client.start_rollout(
        endpoint,
        to,
        steps=weights,
        hold_s=hold_s,
        min_samples=min_samples,
        gates=gates,
        alpha=alpha,
        patience=patience,
        on_inconclusive=on_inconclusive,
    )
    if watched:
        _watch(client, endpoint, name, address)
        return
    _show(rollout, as_json=as_json)


@app.command()
def status(
    endpoint: Annotated[
        str | None, typer.Argument(metavar="[ENDPOINT]", show_default=False, autocompletion=completion.endpoint_names)
    ] = None,
    name: Name = "default",
    address: ClusterAddress = None,
    as_json: AsJson = False,
) -> None:
    """Show the newest rollout of an endpoint, or of all."""
    client = connect_to(name, address)
    if endpoint is not None:
        _show(client.rollout(endpoint), as_json=as_json)
        return
    rollouts = client.status()["rollouts"]
    if as_json:
        print_json(rollouts)
        return
    from pointsman.cli.tables import rollouts_table

    terminal().print(rollouts_table(rollouts) if rollouts else "No endpoint has had a rollout.")


@app.command()
def watch(endpoint: Endpoint, name: Name = "default", address: ClusterAddress = None) -> None:
    """Show a rollout's progress until it has ended. Exits with 0 if it was promoted, with 5 if it went back, with 4 if
    somebody has set other traffic. Ctrl-C leaves it running, and exits with 130."""
    _watch(connect_to(name, address), endpoint, name, address)


@app.command()
def wait(
    endpoint: Endpoint,
    timeout: Annotated[str | None, typer.Option("--timeout", help="Wait no longer.", metavar="TIME")] = None,
    name: Name = "default",
    address: ClusterAddress = None,
    as_json: AsJson = False,
) -> None:
    """Wait until a rollout has ended, or is inconclusive. Exits as watch does, with 3 if it is inconclusive, and with 1
    after --timeout."""
    timeout_s = None if timeout is None else parse_seconds(timeout, "--timeout")
    rollout = connect_to(name, address).wait_for_rollout(endpoint, timeout_s)
    _show(rollout, as_json=as_json)
    _exit(rollout)


@app.command()
def pause(endpoint: Endpoint, name: Name = "default", address: ClusterAddress = None, as_json: AsJson = False) -> None:
    """Keep the present weight; a gate that trips still goes back."""
    client = connect_to(name, address)
    client.pause_rollout(endpoint)
    _show(client.rollout(endpoint), as_json=as_json)


@app.command()
def resume(endpoint: Endpoint, name: Name = "default", address: ClusterAddress = None, as_json: AsJson = False) -> None:
    """Go on after a pause; after new code without the evidence from before."""
    client = connect_to(name, address)
    client.resume_rollout(endpoint)
    _show(client.rollout(endpoint), as_json=as_json)


@app.command()
def promote(
    endpoint: Endpoint, name: Name = "default", address: ClusterAddress = None, as_json: AsJson = False
) -> None:
    """Take the last step's weight at once, whatever the gates say."""
    client = connect_to(name, address)
    client.promote_rollout(endpoint)
    _show(client.rollout(endpoint), as_json=as_json)


@app.command()
def abort(endpoint: Endpoint, name: Name = "default", address: ClusterAddress = None, as_json: AsJson = False) -> None:
    """Restore the weights from before the rollout."""
    client = connect_to(name, address)
    client.abort_rollout(endpoint)
    _show(client.rollout(endpoint), as_json=as_json)


def _gates(texts: list[str]) -> dict[str, Any] | None:
    named = parse_settings([text if "=" in text else f"{text}={{}}" for text in texts], "--gate")
    for gate, options in named.items():
        if not isinstance(options, dict):
            raise typer.BadParameter(f"--gate {gate}={options!r} is not NAME=JSON, such as 'latency={{\"p99\": 1.1}}'")
    return named or None


def _show(rollout: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(rollout)
        return
    from pointsman.cli.evidence import RolloutPicture

    terminal().print(RolloutPicture(rollout))


def _watch(client: Client, endpoint: str, name: str, address: str | None) -> None:
    console = terminal()
    try:
        rollout = _redraw(client, endpoint) if console.is_terminal else _tell(client, endpoint)
    except KeyboardInterrupt:
        again = command_line(f"rollout watch {endpoint}", name, address)
        print_line(f"The rollout goes on. Watch it again with: {again}", err=True)
        raise typer.Exit(INTERRUPTED) from None  # not 0, by which scripts know that it was promoted
    _exit(rollout)


def _redraw(client: Client, endpoint: str) -> dict[str, Any]:
    """Draw the rollout anew each second until it has ended; the last picture stays."""
    from rich.live import Live

    from pointsman.cli.evidence import RolloutPicture

    rollout = client.rollout(endpoint)
    with Live(RolloutPicture(rollout), console=terminal(), auto_refresh=False) as live:
        while not rollout["ended"]:
            time.sleep(EVERY_S)
            rollout = client.rollout(endpoint)
            live.update(RolloutPicture(rollout), refresh=True)
    return rollout


def _tell(client: Client, endpoint: str) -> dict[str, Any]:
    """The same for a file or pipe: a line at the beginning, for each change of state or step, and at the end."""
    from pointsman.cli.evidence import line

    told: tuple[Any, ...] = ()
    while True:
        rollout = client.rollout(endpoint)
        news = rollout["id"], rollout["state"], rollout["step"]
        if news != told:
            print_line(line(rollout))
            told = news
        if rollout["ended"]:
            return rollout
        time.sleep(EVERY_S)


def _exit(rollout: dict[str, Any]) -> None:
    code = EXIT_CODES.get(rollout["state"], 0)
    if code:
        raise typer.Exit(code)
