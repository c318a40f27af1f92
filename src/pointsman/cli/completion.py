"""``pointsman completion``: the script that completes command lines in a shell, and the names of live objects for it.

Names of endpoints and backends are read from the file with the newest routing table, which takes milliseconds; those of
an instance on a Ray cluster, which has no such file on this machine, are not completed. Whatever goes wrong, nothing is
offered: nobody wants an error at the prompt.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pointsman.engine.local.folder import InstanceFolder
    from pointsman.model import RoutingTable

VARIABLE = "_POINTSMAN_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
#: Scripts put names into the shell's own text, so only these are offered: no other character means anything there.
SAFE = re.compile(r"[A-Za-z0-9_.,:/@%+#-]+")


def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="For which shell.", show_default=False)],
) -> None:
    """Print the script that completes commands, options and live names: source <(pointsman completion bash)."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # typer has no other name for it

    if shell not in SHELLS:
        raise typer.BadParameter(f"{shell!r} is none of {', '.join(SHELLS)}", param_hint="SHELL")
    typer.echo(get_completion_script(prog_name="pointsman", complete_var=VARIABLE, shell=shell))


def is_asked() -> bool:
    """Whether a shell asks this process what may come next."""
    return VARIABLE in os.environ


def answer(app: typer.Typer) -> None:
    """Print what may come next, and exit."""
    from typer.completion import completion_init  # type: ignore[attr-defined]  # as above

    completion_init()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    try:
        app()
    except Exception:  # noqa: BLE001 - a command line may be half of anything
        sys.exit(0)


def instance_names(incomplete: str) -> list[str]:
    """Of this user's live instances on this machine."""
    try:
        from pointsman.engine.local.folder import ANONYMOUS_PREFIX, live_folders

        names = [folder.path.name for folder in live_folders()]
        return _fitting((name for name in names if not name.startswith(ANONYMOUS_PREFIX)), incomplete)
    except Exception:  # noqa: BLE001 - see the module
        return []


def route_urls(incomplete: str) -> list[str]:
    """Of the routes of those instances."""
    try:
        from pointsman.engine.base import url
        from pointsman.engine.local.folder import live_folders

        found = []
        for folder in live_folders():
            about, table = folder.about(), _table_of(folder)
            base = url(about.http_host, about.http_port, secure=about.secure)
            routes = [one.route for one in table.endpoints.values()] if table is not None else []
            found += [f"{base}{route}" for route in routes if base and route]
        return _fitting(found, incomplete)
    except Exception:  # noqa: BLE001 - see the module
        return []


def endpoint_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Of the instance that the command line names."""
    table = _table(ctx)
    return _fitting(table.endpoints, incomplete) if table is not None else []


def backend_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Of that instance."""
    table = _table(ctx)
    return _fitting(table.backends, incomplete) if table is not None else []


def deployed_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Of its endpoints and backends."""
    return sorted({*endpoint_names(ctx, incomplete), *backend_names(ctx, incomplete)})


def weight_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Its backends, each with the ``=`` that a weight follows."""
    return [f"{tag}=" for tag in backend_names(ctx, incomplete)]


def replica_tags(ctx: typer.Context, incomplete: str) -> list[str]:
    """Of its replicas that serve."""
    table = _table(ctx)
    if table is None:
        return []
    return _fitting((ref.tag for route in table.backends.values() for ref in route.replicas), incomplete)


def _table(ctx: typer.Context) -> RoutingTable | None:
    try:
        from pointsman.engine.folder import check_name
        from pointsman.engine.local.folder import InstanceFolder

        return _table_of(InstanceFolder.of(check_name(ctx.params.get("name") or "default")))
    except Exception:  # noqa: BLE001 - see the module
        return None


def _table_of(folder: InstanceFolder) -> RoutingTable | None:
    """The newest table of an instance; None if it has ended, or has none yet."""
    from pointsman.engine.local.lasttable import LastTable

    kept = LastTable(folder).read() if folder.is_alive() else None
    if kept is None:
        return None
    kept.close()
    return kept.table


def _fitting(names: Iterable[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete) and SAFE.fullmatch(name))
