"""``Client.status()`` as tables for the terminal. Called by ``pointsman status``; reads plain dicts and nothing else.

Names and failures are other people's text: they become ``Text``, never markup, and lose their control characters.
"""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

BAR_WIDTH = 10
BACKEND_STYLES = {"RUNNING": "green", "UPDATING": "yellow", "UNHEALTHY": "bold red", "DEPLOY_FAILED": "bold red"}
REPLICA_STYLES = {"READY": "green", "LAUNCHED": "yellow", "STARTING": "yellow"}
"""Others are on their way out."""


def show_status(status: dict[str, Any], console: Console) -> None:
    """Print the whole status."""
    console.print(_header(status), soft_wrap=True)
    for table, nothing in (
        (_endpoints(status["endpoints"]), "No endpoints."),
        (_backends(status["backends"]), "No backends; deploy one with client.create_backend() or client.deploy()."),
        (_replicas(status["backends"]), ""),
    ):
        if table.row_count:
            console.print(table)
        elif nothing:
            console.print(nothing, style="dim")


def _header(status: dict[str, Any]) -> Text:
    http = status["http"]
    servers = len(http["ingresses"])
    address = (
        f"{http['address']} ({servers} HTTP server{'s' if servers != 1 else ''})" if http["address"] else "no HTTP"
    )
    return Text.assemble(
        (status["name"] or "(anonymous)", "bold"), f"  {address}  controller pid {status['controller_pid']}"
    )


def _endpoints(endpoints: dict[str, Any]) -> Table:
    table = _table("Endpoints", "endpoint", "route", "methods", "traffic")
    for name, endpoint in sorted(endpoints.items()):
        table.add_row(
            _text(name),
            _text(endpoint["route"]) if endpoint["route"] else Text("handles only", style="dim"),
            " ".join(endpoint["methods"]),
            _traffic(endpoint["traffic"]),
        )
    return table


def _traffic(weights: dict[str, float]) -> RenderableType:
    return Group(
        *(
            Text.assemble(
                ("█" * round(weight * BAR_WIDTH)).ljust(BAR_WIDTH, "░"), f" {100 * weight:>4.3g} % ", _text(backend)
            )
            for backend, weight in sorted(weights.items(), key=lambda item: -item[1])
        )
    )


def _backends(backends: dict[str, Any]) -> Table:
    table = _table("Backends", "backend", "state", "ready", "last failure")
    for tag, backend in sorted(backends.items()):
        table.add_row(
            _text(tag),
            Text(backend["state"], style=BACKEND_STYLES.get(backend["state"], "")),
            f"{backend['replicas_running']}/{backend['replicas_wanted']}",
            _failure(backend["failure"]),
        )
    return table


def _failure(failure: dict[str, Any] | None) -> Text:
    if failure is None:
        return Text("-", style="dim")
    lines = failure["text"].strip().splitlines()
    times = f" ({failure['failures']} times)" if failure["failures"] > 1 else ""
    return _text((lines[0] if lines else failure["reason"]) + times)


def _replicas(backends: dict[str, Any]) -> Table:
    table = _table("Replicas", "replica", "pid", "state", "gpus")
    table.columns[1].justify = "right"
    for _, backend in sorted(backends.items()):
        for replica in backend["replicas"]:
            table.add_row(
                _text(replica["tag"]),
                str(replica["pid"] or "-"),
                Text(replica["state"], style=REPLICA_STYLES.get(replica["state"], "magenta")),
                _text(", ".join(map(str, replica["gpus"])) or "-"),
            )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _text(text: str) -> Text:
    return Text("".join(character if character.isprintable() else "?" for character in text))
