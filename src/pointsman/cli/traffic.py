"""``pointsman traffic``: look at traffic policies and change them.

Every command that changes something prints what is in force afterwards.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pointsman.cli import completion
from pointsman.cli.common import AsJson, ClusterAddress, Name, connect_to, print_json, terminal
from pointsman.cli.options import parse_seconds, parse_share
from pointsman.comparing import comparers

if TYPE_CHECKING:
    from pointsman.client import Client

app = typer.Typer(
    help="Look at an endpoint's traffic and change it: split, shadow, pin, roll back.", no_args_is_help=True
)

#: Exit codes of ``compare``.
NOTHING_TO_COMPARE, HARM = 1, 3
LONGEST_COMPARED_S = 600.0

Endpoint = Annotated[
    str, typer.Argument(metavar="ENDPOINT", show_default=False, autocompletion=completion.endpoint_names)
]
Backend = Annotated[str, typer.Argument(metavar="BACKEND", show_default=False, autocompletion=completion.backend_names)]
Keys = Annotated[list[str], typer.Argument(metavar="KEY...", help="Shard keys.", show_default=False)]


@app.command()
def show(
    endpoint: Annotated[
        str | None,
        typer.Argument(metavar="[ENDPOINT]", show_default=False, autocompletion=completion.endpoint_names),
    ] = None,
    name: Name = "default",
    address: ClusterAddress = None,
    as_json: AsJson = False,
) -> None:
    """Show who answers and who gets copies: one endpoint, or all."""
    client = connect_to(name, address)
    policies = {one: client.get_traffic(one) for one in ([endpoint] if endpoint else sorted(client.list_endpoints()))}
    if as_json:
        print_json(policies)
        return
    from pointsman.cli.tables import show_traffic

    show_traffic(policies, terminal())


@app.command(name="set")
def set_(
    endpoint: Endpoint,
    weights: Annotated[
        list[str],
        typer.Argument(
            metavar="BACKEND=WEIGHT...",
            help="Such as: old=0.99 new=0.01, or old=99% new=1%.",
            autocompletion=completion.weight_names,
        ),
    ],
    policy: Annotated[
        str | None, typer.Option("--policy", help="A policy of your own, or 'weighted'.", metavar="MODULE:NAME")
    ] = None,
    name: Name = "default",
    address: ClusterAddress = None,
) -> None:
    """Split an endpoint's traffic by weight. Shadows and pins stay."""
    client = connect_to(name, address)
    if policy is not None:
        from pointsman.usercode.paths import working_folder

        sys.path.append(working_folder())  # a custom policy is likely to be there
    client.set_traffic(endpoint, _weights(weights), policy=policy)
    _show(client, endpoint)


@app.command()
def history(
    endpoint: Endpoint, name: Name = "default", address: ClusterAddress = None, as_json: AsJson = False
) -> None:
    """Show the last 50 policies: when, what and who changed them."""
    changes = connect_to(name, address).traffic_history(endpoint)
    if as_json:
        print_json(changes)
        return
    from pointsman.cli.tables import show_history

    show_history(changes, terminal())


@app.command()
def rollback(
    endpoint: Endpoint,
    to: Annotated[
        int | None, typer.Option("--to", help="Which version; the one before by default.", metavar="VERSION")
    ] = None,
    name: Name = "default",
    address: ClusterAddress = None,
) -> None:
    """Bring an older policy back, weights and shadows."""
    client = connect_to(name, address)
    before = client.get_traffic(endpoint)["version"]
    client.rollback_traffic(endpoint, to)
    last = client.traffic_history(endpoint)[-1]
    if last["version"] == before:
        typer.echo(f"Nothing to change: policy {before} is the same.")
    else:
        typer.echo(f"{last['change']}; what was in force before is in the history.")
    _show(client, endpoint)


@app.command()
def shadow(
    endpoint: Endpoint,
    backend: Backend,
    proportion: Annotated[
        str, typer.Argument(metavar="PROPORTION", help="From 0, which ends it, to 1.", show_default=False)
    ],
    compare: Annotated[
        str | None,
        typer.Option("--compare", help="Compare the answers: exact, json, or none to stop.", metavar="HOW"),
    ] = None,
    ignore: Annotated[
        list[str],
        typer.Option("--ignore", help="With json: what may differ, such as '$.took_ms'.", metavar="PATH"),
    ] = [],  # noqa: B006 - typer copies it
    redact: Annotated[
        list[str],
        typer.Option("--redact", help="What is never stored, such as '$.user.email'.", metavar="PATH"),
    ] = [],  # noqa: B006 - typer copies it
    name: Name = "default",
    address: ClusterAddress = None,
) -> None:
    """Send copies of calls to a backend, whose answers are thrown away or compared."""
    if ignore and compare != "json":
        raise typer.BadParameter("--ignore is an option of --compare json")
    how: Any = comparers.json(ignore=ignore) if ignore else compare
    client = connect_to(name, address)
    client.shadow_traffic(endpoint, backend, parse_share(proportion), compare=how, redact=redact)
    _show(client, endpoint)


@app.command()
def pin(
    endpoint: Endpoint, keys: Keys, backend: Backend, name: Name = "default", address: ClusterAddress = None
) -> None:
    """Send all calls with these shard keys to one backend."""
    client = connect_to(name, address)
    client.pin(endpoint, keys, backend)
    _show(client, endpoint)


@app.command()
def unpin(endpoint: Endpoint, keys: Keys, name: Name = "default", address: ClusterAddress = None) -> None:
    """Let weights decide again about these shard keys."""
    client = connect_to(name, address)
    client.unpin(endpoint, keys)
    _show(client, endpoint)


@app.command()
def explain(
    endpoint: Endpoint,
    key: Annotated[str | None, typer.Option("--key", help="A shard key.", metavar="KEY")] = None,
    version: Annotated[
        int | None, typer.Option("--version", help="Of an earlier policy, from the history.", metavar="N")
    ] = None,
    name: Name = "default",
    address: ClusterAddress = None,
    as_json: AsJson = False,
) -> None:
    """Say which backend answers calls with a shard key, and why."""
    explanation = connect_to(name, address).explain(endpoint, shard_key=key, version=version)
    if as_json:
        print_json(explanation)
        return
    from pointsman.cli.tables import show_explanation

    show_explanation(explanation, terminal())


@app.command()
def compare(
    endpoint: Endpoint,
    baseline: Annotated[
        str, typer.Argument(metavar="BASELINE", show_default=False, autocompletion=completion.backend_names)
    ],
    canary: Annotated[
        str, typer.Argument(metavar="CANARY", show_default=False, autocompletion=completion.backend_names)
    ],
    over: Annotated[
        str, typer.Option("--over", help="How much of the last time counts; at most 10m.", metavar="TIME")
    ] = "10m",
    name: Name = "default",
    address: ClusterAddress = None,
    as_json: AsJson = False,
) -> None:
    """Compare two backends by their errors and latencies. Exits with 0 if no harm of the canary is seen, with 3 if it
    is worse beyond doubt, and with 1 if one of them has answered nothing."""
    over_s = parse_seconds(over, "--over")
    if not 0 < over_s <= LONGEST_COMPARED_S:
        raise typer.BadParameter(f"--over must be more than 0 s and at most 10m, not {over!r}")
    comparison = connect_to(name, address).compare_traffic(endpoint, baseline, canary, over_s)
    if as_json:
        print_json(comparison)
    else:
        from pointsman.cli.evidence import comparison_table

        terminal().print(comparison_table(comparison))
    if not comparison["baseline"]["requests"] or not comparison["canary"]["requests"]:
        raise typer.Exit(NOTHING_TO_COMPARE)
    if comparison["harm"]:
        raise typer.Exit(HARM)


def _show(client: Client, endpoint: str) -> None:
    from pointsman.cli.tables import show_traffic

    show_traffic({endpoint: client.get_traffic(endpoint)}, terminal())


def _weights(texts: list[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for text in texts:
        backend, equals, weight = text.rpartition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is not BACKEND=WEIGHT, such as old=0.99")
        if backend in weights:
            raise typer.BadParameter(f"backend {backend!r} has two weights")
        weights[backend] = parse_share(weight)
    return weights
