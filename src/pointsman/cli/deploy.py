"""``pointsman deploy``, ``delete``, ``scale``, ``wake``, ``unload`` and ``models``: backends of a running instance."""

from __future__ import annotations

from typing import Annotated

import typer

from pointsman.cli import completion
from pointsman.cli.common import AsJson, ClusterAddress, Name, connect_to, print_json, terminal
from pointsman.cli.lines import Lines
from pointsman.cli.run import InitArgs, Settings, TargetName, exit_codes, read_wanted
from pointsman.exceptions import ServeException


def deploy(
    target: TargetName,
    route: Annotated[
        str | None, typer.Option("--route", help="HTTP path; what it has already, or none.", metavar="ROUTE")
    ] = None,
    arg: InitArgs = [],  # noqa: B006 - typer copies it
    set_: Settings = [],  # noqa: B006 - typer copies it
    deployed_as: Annotated[
        str | None, typer.Option("--as", help="Of backend and endpoint; the object's by default.", metavar="NAME")
    ] = None,
    name: Name = "default",
    address: ClusterAddress = None,
) -> None:
    """Put a model into a running instance. One of that name is replaced without losing a request."""
    from pointsman.running.targets import TargetError, is_config_file
    from pointsman.running.trial import Trial

    with exit_codes(Lines()):
        if is_config_file(target):
            raise TargetError(f"{target!r} is a configuration file: pointsman apply {target}")
        wanted = read_wanted(target, route, arg, set_)
        trial = Trial(wanted.target, wanted.args)  # it imports while the instance is found
        try:
            client = connect_to(name, address)
            found = trial.result()
        finally:
            trial.close()
        chosen = deployed_as or found.name
        client.deploy(chosen, found.code(), *wanted.args, route=route, config=wanted.config or None)
    shown = client.list_endpoints()[chosen]["route"]
    at = f" at {client.http_address}{shown}" if client.http_address and shown else ", for handles"
    typer.echo(f"{chosen} is served{at}.")


def delete(
    deployed: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="Of endpoint and backend.",
            show_default=False,
            autocompletion=completion.deployed_names,
        ),
    ],
    name: Name = "default",
    address: ClusterAddress = None,
) -> None:
    """Remove the endpoint and the backend of a name, once requests under way are finished."""
    client = connect_to(name, address)
    status = client.status()
    kinds = [kind for kind in ("endpoints", "backends") if deployed in status[kind]]
    if not kinds:
        raise ServeException(f"there is no endpoint or backend named {deployed!r}")
    users = [other for other, one in status["endpoints"].items() if other != deployed and _uses(one, deployed)]
    if "backends" in kinds and users:
        raise ServeException(
            f"backend {deployed!r} is used by endpoint {users[0]!r}; give its traffic to another first"
        )
    if "endpoints" in kinds:
        client.delete_endpoint(deployed)
    if "backends" in kinds:
        client.delete_backend(deployed)
    typer.echo("Deleted: " + ", ".join(f"{kind.removesuffix('s')} {deployed}" for kind in kinds) + ".")


def _uses(endpoint: dict[str, dict[str, float]], backend: str) -> bool:
    return backend in endpoint["traffic"] or backend in endpoint["shadows"]


def scale(
    backend: Annotated[
        str, typer.Argument(metavar="BACKEND", show_default=False, autocompletion=completion.backend_names)
    ],
    replicas: Annotated[int, typer.Argument(metavar="N", help="How many replicas.", min=1, show_default=False)],
    name: Name = "default",
    address: ClusterAddress = None,
) -> None:
    """Set the number of a backend's replicas; returns when they are there, or gone."""
    connect_to(name, address).update_backend_config(backend, {"num_replicas": replicas})
    typer.echo(f"{backend} has {replicas} replica{'s' if replicas != 1 else ''}.")


def wake(
    backend: Annotated[
        str, typer.Argument(metavar="BACKEND", show_default=False, autocompletion=completion.backend_names)
    ],
    name: Name = "default",
    address: ClusterAddress = None,
) -> None:
    """Load a backend that has no replicas; returns when it is ready."""
    client = connect_to(name, address)
    client.wake(backend)
    there = client.status()["backends"][backend]["replicas_running"]
    typer.echo(f"{backend} has {there} replica{'s' if there != 1 else ''}.")


def unload(
    backend: Annotated[
        str, typer.Argument(metavar="BACKEND", show_default=False, autocompletion=completion.backend_names)
    ],
    name: Name = "default",
    address: ClusterAddress = None,
) -> None:
    """Take all replicas of a backend away until it is called; returns when they are gone."""
    connect_to(name, address).unload(backend)
    typer.echo(f"{backend} has no replicas; the next call loads it again.")


def models(
    backend: Annotated[
        str, typer.Argument(metavar="BACKEND", show_default=False, autocompletion=completion.backend_names)
    ],
    name: Name = "default",
    address: ClusterAddress = None,
    as_json: AsJson = False,
) -> None:
    """Show which models the replicas of a backend hold, where its code loads models by id."""
    from pointsman.cli.tables import models_table

    held = connect_to(name, address).models(backend)
    if as_json:
        print_json(held)
    else:
        terminal().print(models_table(backend, held))
