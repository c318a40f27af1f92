"""``pointsman console``: a link to the page of an instance, or the page itself where the instance has none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from pointsman.cli.common import AsJson, ClusterAddress, Name, command_line, connect_to, print_json
from pointsman.cli.token import Role

if TYPE_CHECKING:
    from pointsman.client import Client
    from pointsman.wire.handover import ConsoleHandover


def console(
    name: Name = "default",
    role: Annotated[Role, typer.Option("--role", help="What the link allows.")] = Role.operate,
    port: Annotated[
        int | None,
        typer.Option("--port", help="Of a page that is started; 0 takes any. Default: 8070.", min=0, max=65535),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="A page that is started refuses every change.")
    ] = False,
    address: ClusterAddress = None,
    as_json: AsJson = False,
) -> None:
    """Print a link to the page of an instance that signs in for 12 hours. Where the instance has no page, serve one
    until Ctrl-C."""
    client = connect_to(name, address)
    if client.console_address is not None:
        if port is not None or read_only:
            raise typer.BadParameter(
                f"the instance has a page at {client.console_address}; --port and --read-only are for one without"
            )
        _print(client.console_link(role.value), as_json)
        return
    _serve(client, port, role, read_only=read_only, as_json=as_json)


def console_lines(client: Client, name: str, address: str | None, label: str = " Console: ") -> Iterator[str]:
    """Where the page is; none where there is no page. On a terminal the link signs in: elsewhere lines are kept, and
    whoever reads them could."""
    if client.console_address is None:
        return
    if sys.stdout.isatty():
        yield f"{label} {client.console_link()}  (signs in for 12 hours)"
    else:
        signs_in = command_line("console", name, address)
        yield f"{label} {client.console_address}  (for a link that signs in: {signs_in})"


def _print(url: str, as_json: bool) -> None:
    if as_json:
        print_json({"url": url})
    else:
        typer.echo(url)


def _serve(client: Client, port: int | None, role: Role, *, read_only: bool, as_json: bool) -> None:
    """Serve a page in this process, with a key that only reads, until Ctrl-C or the end of the instance."""
    from pointsman.client.listening import DEFAULT_CONSOLE_PORT, LOOPBACK
    from pointsman.console.__main__ import serve
    from pointsman.engine.listening import listen_for_console
    from pointsman.engine.process import run_process
    from pointsman.wire.handover import ConsoleSettings

    wanted = DEFAULT_CONSOLE_PORT if port is None else port
    settings = ConsoleSettings(LOOPBACK, int(wanted), strict=port is not None, read_only=read_only)
    listener = listen_for_console(settings)
    settings = settings.at(listener.getsockname()[1])
    handover = client._console_handover(settings)
    url = client.console_link(role.value, at=settings.url)

    def say_and_wait(stop: Callable[[], None]) -> None:
        stop_when_over(handover, stop)
        _print(url, as_json)
        if not as_json:
            typer.echo("The instance has no page of its own, so this command serves one. Ctrl-C ends it.", err=True)
        sys.stdout.flush()

    client._session.close()  # what comes in over HTTP is far from the operator's key
    run_process(serve(handover, listener, say_and_wait), process="console", log_format="text")


def stop_when_over(handover: ConsoleHandover, stop: Callable[[], None]) -> None:
    """Call ``stop`` at a signal, and when the instance has ended."""
    import asyncio
    import threading

    from pointsman.console.__main__ import stop_on_signals
    from pointsman.engine.instances import wait_for_end

    stop_on_signals(stop)
    loop = asyncio.get_running_loop()

    def wait() -> None:
        wait_for_end(handover.control_path)
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop)

    threading.Thread(target=wait, name="pointsman-console-end", daemon=True).start()
