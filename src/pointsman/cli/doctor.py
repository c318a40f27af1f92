"""``pointsman doctor``: what is wrong with this machine or an instance, and what to do."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.cli import completion
from pointsman.cli.common import AsJson, ClusterAddress, connect_to, is_of_script, print_json, terminal

if TYPE_CHECKING:
    from pointsman.doctor.instance import Looked
    from pointsman.doctor.judging import Finding

SOMETHING_WRONG = 1


def doctor(
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            help="Only this instance. Default: all of this user on this machine.",
            metavar="NAME",
            autocompletion=completion.instance_names,
        ),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Also write a tar.gz for whoever helps, without secrets.")
    ] = None,
    address: ClusterAddress = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine and the instances on it: what is wrong, and what to do. Changes nothing.

    Exit codes: 0 nothing is wrong; 1 something is.
    """
    if bundle is not None and os.path.lexists(bundle):
        raise typer.BadParameter(f"--bundle {bundle}: it exists already; nothing is overwritten")
    from pointsman.doctor.judging import judge_machine
    from pointsman.doctor.machine import look_at_machine

    machine = look_at_machine()
    findings = judge_machine(machine)
    instances = _instances(name, address, findings) if not machine.runtime_fault else []
    if as_json:
        print_json([one._asdict() for one in findings])
    else:
        _show(findings)
    if bundle is not None:
        from pointsman.doctor.bundle import write_bundle

        try:
            write_bundle(bundle, findings, machine, instances)
        except OSError as error:
            typer.echo(f"pointsman: --bundle {bundle}: {error.strerror or error}", err=True)
            raise typer.Exit(SOMETHING_WRONG) from None
        if not as_json:
            typer.echo(f"Written to {bundle}, without the secrets that are known; look through it before you send it.")
    if not all(one.ok for one in findings):
        raise typer.Exit(SOMETHING_WRONG)


def _instances(name: str | None, address: str | None, findings: list[Finding]) -> list[Looked]:
    """Look at the instances that are meant, and add what is found."""
    from pointsman.doctor.condition import judge_instance
    from pointsman.doctor.instance import look_at_instance
    from pointsman.doctor.judging import Finding
    from pointsman.engine.local.folder import all_abouts, folder_named, shown_name
    from pointsman.exceptions import ServeException

    names = [shown_name(about) for about in all_abouts()] if address is None else [name or "default"]
    if name is not None and name not in names:
        there = (
            f"running: {', '.join(names)}" if names else f"nor any other; run: pointsman start --detached{_named(name)}"
        )
        text = f"No instance named {name!r} runs on this machine; {there}"
        findings.append(Finding(f"{name}/controller", False, text))
        return []
    looked = []
    for one in [name] if name is not None else names:
        try:
            folder = folder_named(one) if address is None or is_of_script(one) else None
        except ServeException:
            continue  # it has just ended
        found = look_at_instance(one, lambda one=one: connect_to(one, address), folder)  # type: ignore[misc]
        findings += judge_instance(found.condition)
        looked.append(found)
    return looked


def _named(name: str) -> str:
    return "" if name == "default" else f" --name {shlex.quote(name)}"


def _show(findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    from pointsman.cli.cells import plain

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for one in findings:
        mark = Text("ok", style="green") if one.ok else Text("WRONG", style="bold red")
        table.add_row(mark, plain(one.check), plain(one.text))
    console = terminal()
    console.print(table)
    wrong = sum(not one.ok for one in findings)
    console.print(Text(f"\n{wrong or 'None'} of {len(findings)} checks found something wrong."))
