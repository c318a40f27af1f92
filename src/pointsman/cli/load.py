"""``pointsman load``: requests at a rate, how long they took, and whether that is what was expected."""

from __future__ import annotations

import os
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pointsman.cli import completion
from pointsman.cli.common import AsJson, print_json, terminal
from pointsman.cli.options import parse_seconds

if TYPE_CHECKING:
    from pointsman.load.expectations import Expectation
    from pointsman.load.running import Plan
    from pointsman.load.target import Target

NO_ANSWER, BAD_USAGE, MISSED, NOT_TRUSTWORTHY, INTERRUPTED = 1, 2, 3, 4, 130
MOST_CONNECTIONS = 4096


class Arrivals(str, Enum):
    """When requests are due."""

    poisson = "poisson"
    constant = "constant"


def load(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="Of http or https.", show_default=False, autocompletion=completion.route_urls
        ),
    ],
    rate: Annotated[
        float | None,
        typer.Option("--rate", help="Requests per second, whether or not answers come (open loop).", metavar="R"),
    ] = None,
    duration: Annotated[str, typer.Option("--duration", help="How long it sends: 30, 30s, 2m.", metavar="S")] = "10s",
    concurrency: Annotated[
        int | None,
        typer.Option("--concurrency", help="Instead of a rate: each answer lets the next one go.", metavar="N", min=1),
    ] = None,
    arrivals: Annotated[
        Arrivals, typer.Option("--arrivals", help="By chance, as those of many users, or evenly.")
    ] = Arrivals.poisson,
    method: Annotated[
        str | None, typer.Option("--method", help="Default: GET, with a body POST.", show_default=False)
    ] = None,
    body: Annotated[str | None, typer.Option("--body", help="Text, or @FILE.", metavar="TEXT|@FILE")] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", help="As often as needed.", metavar="'NAME: VALUE'")
    ] = None,
    keys: Annotated[
        int, typer.Option("--keys", help="Requests of so many sessions, by x-serve-shard-key.", metavar="N", min=0)
    ] = 0,
    expect: Annotated[
        list[str] | None,
        typer.Option("--expect", help="'p99<50ms', 'errors<1%', 'rate>400'; missed: exit code 3.", metavar="TEXT"),
    ] = None,
    timeout: Annotated[str, typer.Option("--timeout", help="A request that takes longer has failed.")] = "30s",
    connections: Annotated[
        int, typer.Option("--connections", help="At most, with --rate.", metavar="N", min=1)
    ] = MOST_CONNECTIONS,
    seed: Annotated[int, typer.Option("--seed", help="Of arrivals and keys.")] = 0,
    remote: Annotated[bool, typer.Option("--remote", help="Allow a URL that is not on this machine.")] = False,
    cacert: Annotated[str | None, typer.Option("--cacert", help="Trust these certificates.", metavar="FILE")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", "-k", help="Do not check the certificate.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send requests at a rate and show how long their answers took, from when each was due.

    Exit codes: 0; 1 no answer; 2 bad usage; 3 an expectation is missed; 4 more than 1 % of the requests were sent 10 ms
    late, so this machine was too slow; 130 interrupted, with what was measured so far.
    """
    from pointsman.load.expectations import parse_expectation
    from pointsman.load.network import room_for_connections
    from pointsman.load.requests import Message, check_keys, check_method, parse_header
    from pointsman.load.running import LEAST_PATIENCE_S, Plan
    from pointsman.load.target import read_target, tls_context

    if (rate is None) == (concurrency is None):
        raise typer.BadParameter("give either --rate R, for an open loop, or --concurrency N, for a closed one")
    if rate is not None and not 0 < rate <= 1_000_000:
        raise typer.BadParameter(f"--rate must be above 0 and at most 1000000, not {rate:g}")
    seconds, patience_s = parse_seconds(duration, "--duration"), parse_seconds(timeout, "--timeout")
    if not 0 < seconds < float("inf"):
        raise typer.BadParameter(f"--duration must be above 0 and finite, not {duration}")
    if not LEAST_PATIENCE_S <= patience_s < float("inf"):
        raise typer.BadParameter(f"--timeout must be 0.001 s or more and finite, not {timeout}")
    try:
        expectations = [parse_expectation(text) for text in expect or ()]
        headers = [parse_header(text) for text in header or ()]
        content = _content(body)
        named = ("GET" if body is None else "POST") if method is None else method
        message = Message(check_method(named), headers, content, keys)
        check_keys(message)
        target = read_target(url)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    _check_place(target, remote=remote)
    if concurrency is not None and (room := room_for_connections(concurrency)) < concurrency:
        text = f"--concurrency {concurrency} needs as many open files, and this user may have {room}; see ulimit -Hn"
        raise typer.BadParameter(text)
    try:
        tls = tls_context(cacert, insecure=insecure) if target.secure else None
    except OSError as error:
        raise typer.BadParameter(f"--cacert {cacert}: {error.strerror or error}") from None
    plan = Plan(target, message, tls, seconds, rate, concurrency or 0, arrivals.value, connections, patience_s, seed)
    _run(plan, expectations, as_json=as_json)


def _content(body: str | None) -> bytes:
    """The bytes of ``--body``.

    Raises:
        ValueError: its file cannot be read.
    """
    if body is None or not body.startswith("@"):
        return os.fsencode(body or "")
    try:
        return Path(body[1:]).read_bytes()
    except OSError as error:
        raise ValueError(f"--body {body}: {error.strerror}") from None


def _check_place(target: Target, *, remote: bool) -> None:
    """Refuse another machine unless it is meant: a load is what its owner may take for an attack."""
    from pointsman.load.target import is_here

    elsewhere = [place for place in target.places if not is_here(place)]
    if elsewhere and not remote:
        where = elsewhere[0].address[0]
        raise typer.BadParameter(f"{target.name} ({where}) is not this machine; if you may load it, add --remote")


def _run(plan: Plan, expectations: list[Expectation], *, as_json: bool) -> None:
    from pointsman.load.expectations import missed
    from pointsman.load.running import run

    if not as_json and sys.stdout.isatty():
        from pointsman.cli.loadview import live

        with live(plan) as (show, series):
            outcome = run(plan, show)
    else:
        series = None
        outcome = run(plan)
    tally = outcome.tally
    report = tally.report()
    if as_json:
        print_json(report)
    else:
        from pointsman.cli.loadview import report_view

        console = terminal()
        console.print(report_view(report, tally.last_at, series, console.width))
    faults = [text for one in expectations if (text := missed(one, report))]
    for text in faults:
        typer.echo(f"pointsman: {text}", err=True)
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)
    if not tally.answered:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in report["errors"].items())
        typer.echo(f"pointsman: {plan.target.host} gave no answer ({kinds}){_hint(report)}", err=True)
        raise typer.Exit(NO_ANSWER)
    if not tally.trustworthy:
        typer.echo(f"pointsman: {distrust(report)}", err=True)
        raise typer.Exit(NOT_TRUSTWORTHY)
    if faults:
        raise typer.Exit(MISSED)


def _hint(report: dict[str, Any]) -> str:
    """What to do where there is no answer, if that can be told."""
    if "tls" in report["errors"]:
        return "; its certificate is not trusted (--cacert FILE, or -k for any), or it speaks no TLS (http://)"
    return ""


def distrust(report: dict[str, Any]) -> str:
    """Why figures cannot be trusted, and what to do."""
    return (
        "not trustworthy: over 1 % of the requests were sent 10 ms late or later "
        f"(p99 {report['late_p99_ms']} ms); this machine is too slow for the rate, or all --connections were taken"
    )
