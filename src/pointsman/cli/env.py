"""``pointsman env``: lists and removes environments that were made from requirements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.cli.common import AsJson, ClusterAddress, print_json, terminal
from pointsman.exceptions import ServeException

if TYPE_CHECKING:
    from pointsman.environments.requirements import StoredEnvironment

DAY_S = 86400.0

app = typer.Typer(help="Look at Python environments made from requirements, and remove them.", no_args_is_help=True)


@app.command(name="list")
def list_(address: ClusterAddress = None, as_json: AsJson = False) -> None:
    """Show the environments that were made, and which of them backends use."""
    from pointsman.environments.requirements import stored_environments

    _show([(kept, "") for kept in stored_environments()], as_json, _used(address))


@app.command()
def prune(
    unused_for: Annotated[
        float, typer.Option("--unused-for", help="Keep those asked for within this many days.", metavar="DAYS", min=0)
    ] = 0.0,
    address: ClusterAddress = None,
    as_json: AsJson = False,
) -> None:
    """Remove environments that no backend of a running instance uses. Those asked for in the last 10 minutes stay."""
    from pointsman.engine.ray.folder import is_in_use_here
    from pointsman.environments.requirements import prunable, remove, remove_dangling_links, stored_environments

    if address is None and is_in_use_here():
        raise ServeException(
            "an instance on a Ray cluster has processes on this machine, and may use environments; say which cluster,"
            " such as --address auto"
        )
    used = _used(address)
    rows = []
    for kept in stored_environments():
        gone = prunable(kept, used, unused_for * DAY_S) and remove(kept)
        rows.append((kept, "removed" if gone else ""))
    remove_dangling_links()
    _show(rows, as_json, used)


def _show(rows: list[tuple[StoredEnvironment, str]], as_json: bool, used: set[str]) -> None:
    report = [
        {
            "packages": list(kept.recipe.packages) if kept.recipe else [],
            "python": kept.python,
            "version": kept.recipe.version.partition(" ")[0] if kept.recipe else "",
            "bytes": kept.size,
            "unused_s": round(kept.unused_s),
            "state": done or ("in use" if kept.python in used else "unused" if kept.recipe else "half made"),
        }
        for kept, done in rows
    ]
    if as_json:
        print_json(report)
        return
    from pointsman.cli.tables import show_environments

    show_environments(report, terminal())


def _used(cluster: str | None) -> set[str]:
    """Interpreters of the backends of live instances on this machine and on a cluster.

    Raises:
        ServeException: an instance does not answer; its environments could be removed while they are in use.
    """
    from pointsman.client.start import attach
    from pointsman.engine.instances import live_addresses

    used: set[str] = set()
    for address in live_addresses(cluster):
        for backend in attach(address).status()["backends"].values():
            used.update(backend["pythons"])
    return used
