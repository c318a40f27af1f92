"""``pointsman console`` and ``pointsman token``."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

from pointsman.cli.common import ClusterAddress, Name, connect_to

CONSOLE_PORT = 8070


def console(
    name: Name = "default",
    address: ClusterAddress = None,
    port: Annotated[int, typer.Option("--port", help="Of the page; 0 takes any free one.")] = CONSOLE_PORT,
) -> None:
    """Serve the page to look at an instance and steer it, until Ctrl-C."""
    import asyncio

    from pointsman.calling.session import operator
    from pointsman.console.__main__ import serve
    from pointsman.engine.instances import address_of
    from pointsman.engine.listening import listen, url_of

    client = connect_to(name, address)
    secret = secrets.token_urlsafe(32)
    client.create_token(f"console {secrets.token_hex(3)}", "deploy", token=secret, ttl_s=12 * 3600)
    listener = listen("127.0.0.1", port)
    typer.echo(f"{url_of(listener)}/#token={secret}")
    where = address_of(client._credentials.control_path)
    asyncio.run(serve(operator(where), listener, where))
