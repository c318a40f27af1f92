"""Renders the client's plain dicts as tables for the terminal. Called by the commands.

Names and failures are text from outside: they become ``Text``, never markup, and lose their control characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pointsman.cli.cells import age, clock, duration, figure, make_table, plain, share, words
from pointsman.cli.scalingtables import ScalingTable

BAR_WIDTH = 10
SHOWN_PINS = 10
SHORT_NODE = 8
SHORT_COMMIT = 8
BACKEND_STYLES = {
    "RUNNING": "green",
    "UPDATING": "yellow",
    "SCALING": "yellow",
    "IDLE": "dim",
    "UNHEALTHY": "bold red",
    "DEPLOY_FAILED": "bold red",
}
#: Other states belong to replicas that are stopping; they get the style of ``_replicas``.
REPLICA_STYLES = {"READY": "green", "LAUNCHED": "yellow", "STARTING": "yellow"}

ROLLOUT_STYLES = {
    "running": "green",
    "paused": "yellow",
    "inconclusive": "yellow",
    "promoted": "bold green",
    "rolled_back": "bold red",
    "aborted": "yellow",
    "superseded": "yellow",
}


def show_instances(instances: list[dict[str, Any]], console: Console) -> None:
    """Print running instances."""
    table = make_table("", "instance", "pid", "release", "HTTP", "metrics", "console")
    table.columns[1].justify = "right"
    for one in instances:
        which = ("release", "http", "metrics", "console")
        shown = (plain(one[what]) if one[what] else Text("-", style="dim") for what in which)
        table.add_row(Text(one["name"], style="bold"), str(one["pid"]), *shown)
    nothing = Text("No instance is running; start one with: pointsman start --detached", style="dim")
    console.print(table if table.row_count else nothing)


def show_status(status: dict[str, Any], console: Console) -> None:
    """Print the whole status."""
    console.print(_header(status), soft_wrap=True)
    console.print(*status_tables(status), sep="\n")


def status_tables(status: dict[str, Any]) -> Iterator[RenderableType]:
    """The whole status, table by table; first the apply that runs, if one does."""
    if status.get("apply") is not None:
        yield _apply(status["apply"])
    yield _endpoints(status["endpoints"]) if status["endpoints"] else Text("No endpoints.", style="dim")
    if status.get("rollouts"):
        yield rollouts_table(status["rollouts"])
    for table, nothing in (
        (_backends(status["backends"]), "No backends; deploy one with client.create_backend() or client.deploy()."),
        (ScalingTable(status["backends"]), ""),
        (_replicas(status["backends"]), ""),
        (_metrics(status["metrics"]), ""),
    ):
        if table.row_count:
            yield table
        elif nothing:
            yield Text(nothing, style="dim")


def show_traffic(policies: dict[str, dict[str, Any]], console: Console) -> None:
    """Print traffic policies, by endpoint."""
    table = make_table("", "endpoint", "version", "traffic", "shadows", "pinned keys", "shard key")
    for name, policy in policies.items():
        table.add_row(
            plain(name),
            str(policy["version"]),
            _traffic(policy["weights"]) if policy["policy"] == "weighted" else _by_policy(policy),
            _shadows(policy["shadows"]),
            _pins(policy["pins"]),
            plain(policy["shard_key"]),
        )
    console.print(table if table.row_count else Text("No endpoints.", style="dim"))


def show_history(changes: list[dict[str, Any]], console: Console) -> None:
    """Print the changes of an endpoint's policy, newest first."""
    table = make_table("", "version", "time (UTC)", "traffic", "shadows", "change", "by")
    for change in reversed(changes):
        table.add_row(
            str(change["version"]),
            change["time"][:19].replace("T", " "),
            _shares(change["weights"]),
            _shadows(change["shadows"]),
            plain(change["change"]),
            plain(change["by"]),
        )
    console.print(table)


def show_changes(changes: list[dict[str, Any]], console: Console) -> None:
    """Print the changes of an instance, newest first."""
    table = make_table("", "version", "time (UTC)", "what", "change", "by")
    for change in reversed(changes):
        table.add_row(
            str(change["version"]),
            change["time"][:19].replace("T", " "),
            plain(change["object"]),
            plain(change["change"]),
            plain(f"{change['owner']} ({change['by']})" if change["owner"] else change["by"]),
        )
    console.print(table if table.row_count else Text("Nothing has been changed yet.", style="dim"))


def show_explanation(explanation: dict[str, Any], console: Console) -> None:
    """Print which backend answers calls with a shard key, and why."""
    because = {
        "weight": "drawn for each call, by weight",
        "pin": "the key is pinned to it",
        "shard key": "the key belongs to it: it drew the smallest number",
        "policy": "chosen by the endpoint's own policy",
    }[explanation["why"]]
    backend = explanation["backend"]
    if explanation["why"] == "weight" and backend is not None:
        because = "it has all the weight"
    answer = plain(backend) if backend is not None else Text("one of them", style="dim")
    console.print(Text.assemble(answer, f"  {because} (policy version {explanation['policy_version']})"))
    table = make_table("", "backend", "weight", "number drawn")
    for tag, weight in sorted(explanation["weights"].items(), key=lambda item: -item[1]):
        number = explanation["numbers"].get(tag)
        table.add_row(plain(tag), f"{100 * weight:.4g} %", "-" if number is None else f"{number:.6f}")
    console.print(table)


def show_environments(environments: list[dict[str, Any]], console: Console) -> None:
    """Print environments that were made from requirements, with their state."""
    table = make_table("", "packages", "Python", "size", "last used", "state")
    for one in environments:
        table.add_row(
            plain(", ".join(one["packages"]) or "-"),
            one["version"],
            f"{one['bytes'] / 1e6:.1f} MB",
            f"{duration(one['unused_s'])} ago",
            Text(one["state"], style={"in use": "green", "removed": "yellow"}.get(one["state"], "")),
        )
    console.print(table if table.row_count else Text("No environments.", style="dim"))
    freed = sum(one["bytes"] for one in environments if one["state"] == "removed")
    if freed:
        console.print(f"{freed / 1e6:.1f} MB were freed.")


def _header(status: dict[str, Any]) -> Text:
    http = status["http"]
    servers = len(http["ingresses"])
    address = (
        f"{http['address']} ({servers} HTTP server{'s' if servers != 1 else ''})" if http["address"] else "no HTTP"
    )
    page = f"  console {status['console']}" if status.get("console") else ""
    release = f"  release {status['release']}" if status.get("release") else ""
    return Text.assemble(
        (status["name"] or "(anonymous)", "bold"),
        f"  {address}{page}{release}  controller pid {status['controller_pid']}",
    )


def _apply(running: dict[str, Any]) -> Text:
    since, text = age(running["since"]), f"{running['owner']!r} is being applied by {running['by'] or 'someone'}"
    return Text.assemble((plain(text).plain, "yellow"), (f", for {since}; pointsman take-back ends that", "dim"))


def rollouts_table(rollouts: dict[str, dict[str, Any]]) -> RenderableType:
    """The newest rollout of each endpoint, by its name; below, why they are where they are."""
    table = make_table("Rollouts", "rollout", "state", "step", "weight", "held")
    reasons = []
    for endpoint, rollout in sorted(rollouts.items()):
        state, plan = rollout["state"], rollout["plan"]
        table.add_row(
            plain(f"{rollout['id']}: {endpoint} to {plan['to']}"),
            Text(words(state), style=ROLLOUT_STYLES.get(state, "")),
            f"{rollout['step'] + 1}/{len(plan['steps'])}",
            share(rollout["weight"]),
            "-" if rollout["ended"] else f"{clock(rollout['held_s'])}/{clock(plan['hold_s'])}",
        )
        if rollout["reason"]:
            name = f"rollout {rollout['id']}: "
            reasons.append(Text(plain(f"{name}{rollout['reason'].removeprefix(name)}").plain, style="dim"))
    for column in table.columns[1:]:
        column.no_wrap = True
    return Group(table, *reasons)


def _endpoints(endpoints: dict[str, Any]) -> Table:
    table = make_table("Endpoints", "endpoint", "route", "methods", "traffic", "shadows")
    for name, endpoint in sorted(endpoints.items()):
        table.add_row(
            plain(name),
            plain(endpoint["route"]) if endpoint["route"] else Text("handles only", style="dim"),
            " ".join(endpoint["methods"]),
            _traffic(endpoint["traffic"], endpoint["last_minute"]["backends"]),
            _shadows(endpoint["shadows"]),
        )
    return table


def _traffic(weights: dict[str, float], last_minute: dict[str, Any] | None = None) -> RenderableType:
    return Group(
        *(
            Text.assemble(
                ("█" * round(weight * BAR_WIDTH)).ljust(BAR_WIDTH, "░"),
                f" {100 * weight:>5.4g} % ",
                plain(backend),
                _last_minute((last_minute or {}).get(backend)),
            )
            for backend, weight in sorted(weights.items(), key=lambda item: -item[1])
        )
    )


def _last_minute(window: dict[str, Any] | None) -> Text:
    """How a backend has done in the last minute, below its name; nothing if it had no requests."""
    if window is None or not window["requests"]:
        return Text("")
    p50, p99 = (figure(window["latency_ms"][name]) for name in ("p50", "p99"))
    count = window["errors"]
    errors = (f", {count} error{'s' if count != 1 else ''}", "red") if count else ("", "")
    return Text.assemble((f"\n{'':{BAR_WIDTH + 9}}p50 {p50}, p99 {p99} ms", "dim"), errors)


def _shares(weights: dict[str, float]) -> Text:
    shares = sorted(weights.items(), key=lambda item: -item[1])
    return _lines(f"{100 * weight:.4g} % {backend}" for backend, weight in shares)


def _by_policy(policy: dict[str, Any]) -> RenderableType:
    return Group(_traffic(policy["weights"]), Text.assemble("by ", plain(policy["policy"])))


def _shadows(shadows: dict[str, float]) -> Text:
    return _shares(shadows) if shadows else Text("-", style="dim")


def _pins(pins: dict[str, str]) -> Text:
    if not pins:
        return Text("-", style="dim")
    keys = {key: key if key and key == key.strip() else f'"{key}"' for key in sorted(pins)[:SHOWN_PINS]}
    lines = [f"{shown} -> {pins[key]}" for key, shown in keys.items()]
    more = len(pins) - SHOWN_PINS
    return _lines([*lines, f"and {more} more"] if more > 0 else lines)


def _backends(backends: dict[str, Any]) -> Table:
    table = make_table("Backends", "backend", "state", "ready", "code", "for", "environment", "last failure")
    for tag, backend in sorted(backends.items()):
        table.add_row(
            plain(tag),
            Text(backend["state"], style=BACKEND_STYLES.get(backend["state"], "")),
            f"{backend['replicas_running']}/{backend['replicas_wanted']}",
            _code(backend),
            age(backend.get("since", "")),
            _environment(backend.get("environment")),
            _failure(backend["failure"]),
        )
    return table


def _code(backend: dict[str, Any]) -> Text:
    """What runs, and below it which version: the user's word for it and the commit, or else the digest."""
    commit = backend.get("commit", "")
    short = commit[:SHORT_COMMIT] + "+" * commit.endswith("+")
    which = " ".join(filter(None, (backend.get("version"), short))) or backend.get("digest", "")
    return Text("\n").join(filter(None, (plain(backend.get("code", "-")), plain(which))))


def _environment(environment: dict[str, Any] | None) -> Text:
    if environment is None or environment["kind"] == "caller":
        return Text(f"Python {environment['version']}" if environment else "-", style="dim")
    return plain(f"{environment['name']} ({environment['kind']}, Python {environment['version']})")


def _failure(failure: dict[str, Any] | None) -> Text:
    if failure is None:
        return Text("-", style="dim")
    lines = failure["text"].strip().splitlines()
    times = f" ({failure['failures']} times)" if failure["failures"] > 1 else ""
    return plain((lines[0] if lines else failure["reason"]) + times)


def _replicas(backends: dict[str, Any]) -> Table:
    table = make_table("Replicas", "replica", "pid", "state", "gpus")
    table.columns[1].justify = "right"
    for _, backend in sorted(backends.items()):
        for replica in backend["replicas"]:
            table.add_row(
                plain(replica["tag"]),
                str(replica["pid"] or "-"),
                Text(replica["state"], style=REPLICA_STYLES.get(replica["state"], "magenta")),
                plain(", ".join(map(str, replica["gpus"])) or "-"),
            )
    return table


def _metrics(served: list[dict[str, str]]) -> Table:
    """Metrics addresses of several nodes; a single address was printed at the start and makes no table."""
    table = make_table("Metrics", "node", "address")
    for one in served if len(served) > 1 else ():
        table.add_row(one["node"][:SHORT_NODE], f"{one['address']}/metrics")
    return table


def models_table(backend: str, held: dict[str, list[dict[str, Any]]]) -> RenderableType:
    """One line for each model, those in use first, then those used last."""
    if not any(held.values()):
        return Text(f"The replicas of {backend} hold no models.", style="dim")
    table = make_table("", "replica", "model", "bytes", "in use", "idle")
    for column in table.columns[2:]:
        column.justify = "right"
    for replica in sorted(held):
        for model in sorted(held[replica], key=lambda model: (not model["in_use"], model["idle_s"], model["id"])):
            size = f"{model['bytes']:,}" if model["bytes"] else "-"
            idle = "-" if model["in_use"] else f"{model['idle_s']:,.0f} s"
            table.add_row(plain(replica), plain(model["id"]), size, str(model["in_use"]), idle)
    return table


def _lines(lines: Iterable[str]) -> Text:
    return Text("\n").join(map(plain, lines))
