"""``pointsman token``: who may use an instance's console, and for what."""

from __future__ import annotations

import shlex
from enum import Enum
from typing import Annotated

import typer

from pointsman.cli.common import AsJson, ClusterAddress, Name, command_line, connect_to, print_json, terminal
from pointsman.model.tokens import DEPLOY, OPERATE, VIEW

app = typer.Typer(help="Make, list and revoke tokens for the console.", no_args_is_help=True)


class Role(str, Enum):
    """What a token is for; each role has what those before it have."""

    view = VIEW
    operate = OPERATE
    deploy = DEPLOY


TokenName = Annotated[str, typer.Argument(metavar="NAME", help="Whose token it is; the history of changes says it.")]


@app.command()
def create(
    token: TokenName,
    role: Annotated[Role, typer.Option("--role", help="operate: also traffic and configuration; deploy: also code.")],
    ttl: Annotated[float | None, typer.Option("--ttl", help="Seconds until it ends; without, it does not.")] = None,
    name: Name = "default",
    address: ClusterAddress = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it, this once: only its hash is kept."""
    if ttl is not None and not 0 < ttl < float("inf"):
        raise typer.BadParameter(f"--ttl must be a number of seconds above 0, not {ttl:g}")
    client = connect_to(name, address)
    secret = client.create_token(token, role.value, ttl_s=ttl)
    if as_json:
        ends = client.list_tokens()[token]["expires"]
        print_json({"name": token, "role": role.value, "expires": ends, "token": secret})
    else:
        typer.echo(secret)
        ended_by = command_line(f"token revoke {shlex.quote(token)}", name, address)
        typer.echo(f"This is shown once. It is for {role.value}; end it with: {ended_by}", err=True)


@app.command("list")
def list_tokens(name: Name = "default", address: ClusterAddress = None, as_json: AsJson = False) -> None:
    """Show all tokens: what they are for, who made them, and when they end. None of them is shown itself."""
    tokens = connect_to(name, address).list_tokens()
    if as_json:
        print_json([{"name": token, **about} for token, about in tokens.items()])
        return
    if not tokens:
        typer.echo("There is no token. Make one with: pointsman token create NAME --role view")
        return
    from pointsman.cli.cells import make_table, plain

    table = make_table("", "token", "for", "ends (UTC)", "made (UTC)", "by")
    for token, one in tokens.items():
        ends, made = ((one[when] or "-")[:19].replace("T", " ") for when in ("expires", "made"))
        table.add_row(plain(token), one["role"], ends, made, plain(one["by"]))
    terminal().print(table)


@app.command()
def revoke(token: TokenName, name: Name = "default", address: ClusterAddress = None, as_json: AsJson = False) -> None:
    """End a token now."""
    connect_to(name, address).revoke_token(token)
    if as_json:
        print_json({"name": token, "revoked": True})
