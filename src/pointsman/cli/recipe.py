"""``pointsman recipe``: files by which an instance runs in a container, under systemd or on Kubernetes.

The files are templates beside this module, in ``recipes/``; a test holds each against what it promises.
"""

from __future__ import annotations

import re
import sys
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated

import typer

import pointsman
from pointsman.exceptions import ServeException

KINDS = {
    "docker": ("Dockerfile",),
    "compose": ("compose.yaml",),
    "systemd": ("name.service", "name.socket"),
    "kubernetes": ("kubernetes.yaml",),
}
#: Time to exit after the drain, in seconds.
EXIT_S = 5
NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./:@+-]*")


def recipe(
    kind: Annotated[str, typer.Argument(metavar="docker|compose|systemd|kubernetes", show_default=False)],
    target: Annotated[
        str, typer.Option("--target", help="What it runs: module:Name, file.py or a configuration.", metavar="TARGET")
    ] = "serve.yaml",
    name: Annotated[str, typer.Option("--name", help="Of instance, service and container.", metavar="NAME")] = "models",
    image: Annotated[str | None, typer.Option("--image", help="Of containers; NAME:latest by default.")] = None,
    port: Annotated[int, typer.Option("--port", help="On which others find it.", min=1, max=65535)] = 8000,
    pods: Annotated[int, typer.Option("--pods", help="On Kubernetes.", min=1)] = 2,
    drain_delay: Annotated[
        int, typer.Option("--drain-delay", help="Seconds until those in front have noticed the end.", min=0)
    ] = 5,
    drain: Annotated[
        int, typer.Option("--drain", help="Seconds that requests may take then: the backends' own limit.", min=1)
    ] = 20,
    into: Annotated[
        Path | None, typer.Option("--into", help="Write the files here, and print none.", metavar="FOLDER")
    ] = None,
) -> None:
    """Print files that run it in a container, under systemd or on Kubernetes."""
    if kind not in KINDS:
        raise typer.BadParameter(f"{kind!r} is none of {', '.join(KINDS)}", param_hint="KIND")
    _check("--name", name, NAME, "lower-case letters, digits and -")
    _check("--target", target, PLAIN, "letters, digits and _ . / : @ + -")
    _check("--image", image or name, PLAIN, "letters, digits and _ . / : @ + -")
    from pointsman.running.targets import is_config_file

    values = {
        "name": name,
        "target": target,
        # Code alone has no place for traffic.
        "traffic": target if is_config_file(target) else f"a configuration file that is run in place of {target}",
        "image": image or f"{name}:latest",
        "port": port,
        "pods": pods,
        "delay": drain_delay,
        "drain": drain,
        "grace": drain_delay + drain + EXIT_S,
        "version": pointsman.__version__,
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    }
    made = files(kind, values)
    if into is None:
        typer.echo("\n".join(made.values()), nl=False)
        return
    there = [file for file in made if (into / file).exists()]
    if there:
        raise ServeException(f"{into / there[0]} is there already; nothing was written")
    into.mkdir(parents=True, exist_ok=True)
    for file, text in made.items():
        (into / file).write_text(text)
        typer.echo(into / file)


def files(kind: str, values: dict[str, object]) -> dict[str, str]:
    """The files of a kind, by name.

    Args:
        values: by the names that the templates have for them.
    """
    folder = resources.files("pointsman.cli") / "recipes"
    return {
        file.replace("name.", f"{values['name']}."): Template((folder / file).read_text()).substitute(values)
        for file in KINDS[kind]
    }


def _check(option: str, given: str, allowed: re.Pattern[str], what: str) -> None:
    if not allowed.fullmatch(given):
        raise typer.BadParameter(f"{given!r} has more than {what}", param_hint=option)
