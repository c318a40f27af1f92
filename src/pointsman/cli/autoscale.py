"""``pointsman autoscale``: how many replicas backends have, why, and what a rule would do with a trace of calls.

The controller decides; these commands show it, and fix a number for a while. ``simulate`` needs no instance.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pointsman.cli import completion
from pointsman.cli.common import AsJson, ClusterAddress, Name, connect_to, print_json, terminal
from pointsman.cli.options import parse_json, parse_seconds

app = typer.Typer(help="Numbers of replicas that follow the calls: what is wanted, and why.", no_args_is_help=True)

Backend = Annotated[str, typer.Argument(metavar="BACKEND", show_default=False, autocompletion=completion.backend_names)]


@app.command()
def status(
    backend: Annotated[
        str | None, typer.Argument(metavar="[BACKEND]", show_default=False, autocompletion=completion.backend_names)
    ] = None,
    name: Name = "default",
    address: ClusterAddress = None,
    as_json: AsJson = False,
) -> None:
    """Show how many replicas a backend wants, or each backend that is autoscaled: why, and since when."""
    backends = connect_to(name, address).status()["backends"]
    if backend is not None:
        backends = {backend: {**backends.get(backend, {}), "autoscaling": _scaling(backends, backend)}}
    if as_json:
        print_json({tag: one["autoscaling"] for tag, one in backends.items() if one.get("autoscaling") is not None})
        return
    from pointsman.cli.scalingtables import ScalingTable

    table = ScalingTable(backends)
    terminal().print(table if table.row_count else "No backend is autoscaled; give one num_replicas 'auto'.")


@app.command()
def history(backend: Backend, name: Name = "default", address: ClusterAddress = None, as_json: AsJson = False) -> None:
    """Show the last 50 decisions about a backend: when, from how many replicas to how many, and why."""
    decisions = _scaling(connect_to(name, address).status()["backends"], backend)["decisions"]
    if as_json:
        print_json(decisions)
        return
    from pointsman.cli.scalingtables import show_decisions

    show_decisions(decisions, terminal())


@app.command()
def hold(
    backend: Backend,
    replicas: Annotated[int, typer.Argument(metavar="N", help="How many replicas.", min=0, show_default=False)],
    lasting: Annotated[str, typer.Option("--for", help="How long, such as 90s, 30m or 2h.", metavar="TIME")] = "10m",
    name: Name = "default",
    address: ClusterAddress = None,
    as_json: AsJson = False,
) -> None:
    """Fix the number of an autoscaled backend's replicas for a while; returns when they are ready, or those that there
    is room for. After that it follows the calls again."""
    hold_s = parse_seconds(lasting, "--for")
    if not 0 < hold_s < math.inf:
        raise typer.BadParameter(f"--for {lasting!r} is not a duration above 0 such as 90s, 10m or 2h")
    client = connect_to(name, address)
    client.scale(backend, replicas, hold_s=hold_s)
    backends = client.status()["backends"]
    scaling = _scaling(backends, backend)
    if as_json:
        print_json(scaling)
        return
    typer.echo(f"{backend} is held at {replicas} replica{'s' if replicas != 1 else ''} for {hold_s:g} s.")
    if scaling["blocked"] is not None:
        typer.echo(f"{backends[backend]['replicas_running']} of them run: {scaling['blocked']['text']}")


@app.command()
def simulate(
    trace: Annotated[
        Path,
        typer.Argument(
            metavar="TRACE.json",
            help="A list of arrival times in seconds, or of pairs of a second and the calls per second from then on.",
            show_default=False,
        ),
    ],
    config: Annotated[
        str,
        typer.Option("--config", help="Fields of the autoscaling, such as '{\"max_replicas\": 8}'.", metavar="JSON"),
    ] = "{}",
    service: Annotated[
        str, typer.Option("--service-s", help="Seconds that a call takes.", metavar="MEAN[,CV]")
    ] = "0.1",
    slots: Annotated[int, typer.Option("--slots", help="Calls that a replica runs at once.", min=1)] = 1,
    start_s: Annotated[float, typer.Option("--start-s", help="Seconds that a replica takes to start.", min=0)] = 5.0,
    slo_ms: Annotated[
        float | None,
        typer.Option("--slo-ms", help="What takes longer is late. Default: the target, or five times the mean."),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            "--policy", help="pointsman, ray, kpa, oracle, or module:name of your own, in this folder.", metavar="A,B"
        ),
    ] = "pointsman",
    seed: Annotated[int, typer.Option("--seed", help="Of all random numbers.")] = 0,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw it, too; needs matplotlib (extra plots).", metavar="FILE.svg|png"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a rule would do with a trace of calls, in simulated time: late calls, replica-seconds, decisions. Needs
    no instance."""
    from msgspec import to_builtins

    from pointsman.testing.scaling.simulate import simulate_autoscaling

    sys.path.insert(0, str(Path.cwd()))  # where users have their own policy: a command has only its own folder there
    calls, fields, taken = _trace(trace), parse_json(config, "--config"), _service(service)
    found = {}
    for one in dict.fromkeys(name.strip() for name in policy.split(",")):
        try:
            found[one] = simulate_autoscaling(
                calls, fields, service_s=taken, slots=slots, start_s=start_s, slo_ms=slo_ms, policy=one, seed=seed
            )
        except (ImportError, TypeError, ValueError) as error:
            raise typer.BadParameter(str(error)) from None
    if plot is not None:
        from pointsman.testing.scaling.plot import plot_autoscaling

        plot_autoscaling(found, plot)
    shown = {one: to_builtins(result) for one, result in found.items()}
    if as_json:
        print_json(shown)
        return
    from pointsman.cli.scalingtables import simulation_tables

    terminal().print(simulation_tables(shown))


def _scaling(backends: dict[str, Any], backend: str) -> dict[str, Any]:
    """What a status says of a backend's autoscaling.

    Raises:
        ValueError: there is no such backend, or it is not autoscaled.
    """
    if backend not in backends:
        names = f"; there are: {', '.join(sorted(backends))}" if backends else ", nor any other"
        raise ValueError(f"there is no backend {backend!r}{names}")
    scaling: dict[str, Any] | None = backends[backend].get("autoscaling")
    if scaling is None:
        raise ValueError(f"backend {backend!r} is not autoscaled; its num_replicas would have to be 'auto'")
    return scaling


def _trace(path: Path) -> list[Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise typer.BadParameter(f"{path} is not JSON: {error}") from None
    if not isinstance(found, list):
        raise typer.BadParameter(f"{path} must hold a list of numbers, or of [second, calls per second]")
    return found


def _service(text: str) -> float | tuple[float, float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise typer.BadParameter(f"--service-s {text!r} is not MEAN or MEAN,CV such as 0.1,0.5")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
